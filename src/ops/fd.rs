//! The life of descriptors. The table is a cache of what the kernel knows: it is
//! cleared *before* the number can mean something else (P21), and the shim's own
//! descriptors look to the program as if they were not there.

use core::ffi::c_int;

use crate::conn::{self};
use crate::errno;
use crate::fdtable::{self, Entry};
use crate::process::{self, PidState};

/// A vfork child shares our memory and not our descriptors: hands off (P27).
fn borrowed() -> bool {
    matches!(process::pid_state(), PidState::VforkChild)
}

fn forget(fd: i32) {
    if let Entry::Conn(id) = fdtable::clear(fd)
        && let Some(conn) = conn::slab::by_id(id)
    {
        conn.fd_closed(fd);
    }
}

pub fn close(fd: i32, real: &dyn Fn() -> c_int) -> c_int {
    match fdtable::entry(fd) {
        Entry::Own if borrowed() => real(),
        Entry::Own => {
            errno::set(libc::EBADF);
            -1
        }
        Entry::Conn(_) if !borrowed() => {
            forget(fd);
            real()
        }
        _ => real(),
    }
}

/// close_range and closefrom: our own descriptors are left out.
pub fn closing_range(first: u32, last: u32, flags: u32, real: &dyn Fn(u32, u32) -> c_int) -> c_int {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    if first > last || borrowed() {
        return real(first, last);
    }
    if flags & CLOSE_RANGE_CLOEXEC == 0 {
        for (fd, entry) in fdtable::entries_in(first, last) {
            if matches!(entry, Entry::Conn(_)) {
                forget(fd as i32);
            }
        }
    }
    let mut from = first;
    let mut outcome = 0;
    for own in fdtable::own_in(first, last) {
        if own > from {
            outcome = real(from, own - 1);
            if outcome != 0 {
                return outcome;
            }
        }
        from = own + 1;
    }
    if from <= last {
        real(from, last)
    } else {
        outcome
    }
}

/// dup, dup2, dup3, fcntl(F_DUPFD…): a second number for one description (P23).
pub fn dup(old: i32, new: Option<i32>, real: &dyn Fn() -> c_int) -> c_int {
    if borrowed() {
        return real();
    }
    if fdtable::entry(old) == Entry::Own {
        errno::set(libc::EBADF);
        return -1;
    }
    let mut replaced = None;
    if let Some(new) = new.filter(|new| *new != old) {
        match fdtable::entry(new) {
            // The program takes a number that it believes to be free. Moving our
            // op socket away is not possible under its users: say "no room".
            Entry::Own => {
                errno::set(libc::EMFILE);
                return -1;
            }
            // The table first (P21); the connection only once the call worked.
            Entry::Conn(id) => {
                fdtable::clear(new);
                replaced = Some((new, id));
            }
            Entry::Free => {}
        }
    }
    let made = real();
    if let Some((new, id)) = replaced {
        if made < 0 {
            fdtable::set_conn(new, id);
        } else if let Some(conn) = conn::slab::by_id(id) {
            conn.fd_closed(new);
        }
    }
    if made >= 0
        && made != old
        && let Some((id, _)) = conn::of_fd(old)
    {
        fdtable::set_conn(made, id);
    }
    made
}
