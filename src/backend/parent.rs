//! A bound AF_ALG socket per cipher name, made once per process.
//!
//! The whole state is one atomic word, so there is no lock that a fork could
//! copy while held: creators may race, and the loser closes its socket. The fd
//! belongs to the process for good; a fork child shares it, which is fine
//! because keys live in the accepted sockets. A program may still close the
//! number behind our back and get it again for a socket of its own, and
//! accepting on *that* would steal its connection. So the socket's cookie is
//! remembered and compared before each use.

use super::{Errno, sys};
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

pub struct Parent(AtomicU64);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    New,
    Ready {
        fd: i32,
        cookie: u32,
    },
    /// The kernel's final answer.
    Refused(Errno),
}

const READY: u64 = 1 << 63;
const REFUSED: u64 = 1 << 62;
/// The part of a cookie that fits beside the fd and the two flags.
const COOKIE: u64 = 0x3fff_ffff;

impl State {
    fn from_word(word: u64) -> State {
        let low = word as u32 as i32;
        if word & READY != 0 {
            State::Ready {
                fd: low,
                cookie: (word >> 32 & COOKIE) as u32,
            }
        } else if word & REFUSED != 0 {
            State::Refused(low)
        } else {
            State::New
        }
    }

    fn word(self) -> u64 {
        match self {
            State::New => 0,
            State::Ready { fd, cookie } => READY | u64::from(cookie) << 32 | u64::from(fd as u32),
            State::Refused(errno) => REFUSED | u64::from(errno as u32),
        }
    }
}

/// Shortages pass; everything else (no AF_ALG, no module, no permission, a
/// sandbox) is the answer for this process's life.
fn permanent(errno: Errno) -> bool {
    !matches!(
        errno,
        libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EINTR | libc::EAGAIN
    )
}

fn ours(fd: i32, cookie: u32) -> bool {
    sys::cookie(fd).is_ok_and(|now| (now & COOKIE) as u32 == cookie)
}

impl Parent {
    pub const fn new() -> Parent {
        Parent(AtomicU64::new(0))
    }

    /// The fd if there is one now and it is still ours; makes nothing.
    pub fn peek(&self) -> Option<i32> {
        match self.state() {
            State::Ready { fd, cookie } if ours(fd, cookie) => Some(fd),
            _ => None,
        }
    }

    /// The bound socket, made by `make` (bound, CLOEXEC, high) if need be.
    pub fn get(&self, make: impl Fn() -> Result<i32, Errno>) -> Result<i32, Errno> {
        // A turn is lost only to another thread's success or to a stranger's
        // close; more than a few mean that something fights us.
        for _ in 0..4 {
            match self.state() {
                State::Refused(errno) => return Err(errno),
                now @ State::Ready { fd, cookie } => {
                    if ours(fd, cookie) {
                        return Ok(fd);
                    }
                    self.replace(now, State::New); // not ours any more, so not closed
                }
                State::New => self.create(&make)?,
            }
        }
        Err(libc::EAGAIN)
    }

    fn create(&self, make: &impl Fn() -> Result<i32, Errno>) -> Result<(), Errno> {
        let made = make().and_then(|fd| match sys::cookie(fd) {
            Ok(cookie) => Ok(State::Ready {
                fd,
                cookie: (cookie & COOKIE) as u32,
            }),
            Err(errno) => {
                sys::close(fd);
                Err(errno)
            }
        });
        match made {
            Ok(ready @ State::Ready { fd, .. }) if !self.replace(State::New, ready) => {
                sys::close(fd);
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(errno) => {
                if permanent(errno) {
                    self.replace(State::New, State::Refused(errno));
                }
                Err(errno)
            }
        }
    }

    fn state(&self) -> State {
        State::from_word(self.0.load(Relaxed))
    }

    /// Relaxed is enough: the word is all there is, nothing is published by it.
    fn replace(&self, old: State, new: State) -> bool {
        self.0
            .compare_exchange(old.word(), new.word(), Relaxed, Relaxed)
            .is_ok()
    }
}

impl Default for Parent {
    fn default() -> Self {
        Parent::new()
    }
}

#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    fn make() -> Result<i32, Errno> {
        make_from(200)
    }

    /// Tests run side by side; one that closes numbers has a range of its own.
    fn make_from(min: i32) -> Result<i32, Errno> {
        let fd = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
        let high = sys::dup_from(fd, min);
        sys::close(fd);
        high
    }

    #[test]
    fn words_round_trip() {
        for state in [
            State::New,
            State::Ready { fd: 0, cookie: 0 },
            State::Ready {
                fd: i32::MAX,
                cookie: COOKIE as u32,
            },
            State::Refused(libc::EAFNOSUPPORT),
        ] {
            assert_eq!(State::from_word(state.word()), state);
        }
    }

    #[test]
    fn racing_creators_leave_one_socket() {
        let (parent, made) = (Parent::new(), AtomicUsize::new(0));
        let fds: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        parent.get(|| {
                            made.fetch_add(1, Relaxed);
                            std::thread::yield_now();
                            make()
                        })
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        let Some(fd) = parent.peek() else {
            panic!("somebody won")
        };
        assert!(fds.iter().all(|f| *f == Ok(fd)), "{fds:?}");
        assert!(made.load(Relaxed) >= 1);
        sys::close(fd);
    }

    #[test]
    fn a_number_that_changed_hands_is_never_used() {
        let parent = Parent::new();
        let Ok(first) = parent.get(|| make_from(600)) else {
            panic!("a socket")
        };
        sys::close(first);
        // The program's own socket now has that number.
        let Ok(other) = sys::socket(libc::AF_INET, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)
        else {
            panic!("a socket")
        };
        let stranger = sys::dup_from(other, first);
        assert_eq!(parent.peek(), None);
        let Ok(second) = parent.get(|| make_from(600)) else {
            panic!("a new one")
        };
        assert_ne!(Ok(second), stranger);
        assert!(sys::cookie(first).is_ok(), "the stranger was not closed");
        sys::close(second);
        sys::close(other);
        let _ = stranger.map(sys::close);
    }

    #[test]
    fn refusals_last_and_shortages_do_not() {
        let (parent, calls) = (Parent::new(), AtomicUsize::new(0));
        let fail = |errno| {
            let calls = &calls;
            move || {
                calls.fetch_add(1, Relaxed);
                Err(errno)
            }
        };
        assert_eq!(parent.get(fail(libc::EMFILE)), Err(libc::EMFILE));
        assert_eq!(parent.get(fail(libc::ENOENT)), Err(libc::ENOENT));
        assert_eq!(
            parent.get(fail(libc::EPERM)),
            Err(libc::ENOENT),
            "the first answer stands"
        );
        assert_eq!(parent.get(make), Err(libc::ENOENT));
        assert_eq!(calls.load(Relaxed), 2);
    }
}
