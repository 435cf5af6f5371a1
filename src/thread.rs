//! What a thread is doing inside libssl: the "inside SSL" frames.
//!
//! The frames live in one slot of static thread storage that is declared in
//! assembly and reached by the initial-exec model: no `__tls_get_addr`, no lazy
//! allocation, no destructor (P11). A hook may therefore look at it in a signal
//! handler, in a vfork child, before the constructor and after exit.
//!
//! A frame does not own anything. It can be left behind by `siglongjmp` or by
//! thread cancellation (P40), so it remembers the stack address of the function
//! that pushed it; a look-up from a shallower stack proves that this function is
//! gone, and drops the frame. Because of that nothing here is an RAII guard.

use core::arch::{asm, global_asm};

const DEPTH: usize = 8;
/// Two places of one stack are nearer than this, unless a program runs deeper than
/// any default stack. A look-up from another stack (signal stack, big coroutine)
/// should say nothing about a frame, and says nothing if the stacks are this far
/// apart. Pools of small coroutine stacks lie side by side: there a look-up on a
/// higher stack drops the frame of a coroutine that is suspended inside an SSL call.
/// That costs what the frame was for, never data: without one, bytes that enter or
/// leave are not counted as the connection's, so in the Watch lane the counters
/// disagree and it is never offloaded; in the kernel lane the fd table still names
/// the connection, and only an errno that the frame should have shown is lost
/// (transmit.rs notices when that was its placeholder's).
const ONE_STACK: usize = 8 << 20;

global_asm!(
    ".pushsection .tbss,\"awT\",@nobits",
    ".p2align 6",
    ".globl ktlsshim_thread_slot",
    ".hidden ktlsshim_thread_slot",
    ".type ktlsshim_thread_slot, @object",
    ".size ktlsshim_thread_slot, {size}",
    "ktlsshim_thread_slot:",
    ".zero {size}",
    ".popsection",
    size = const size_of::<Slot>(),
);

/// Names a connection in the slab: index and generation. 0 is never valid, and
/// because generations start at 1 every valid value is at least 1 << 24.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct ConnId(u64);

impl ConnId {
    pub const NONE: ConnId = ConnId(0);
    pub const INDEX_BITS: u32 = 24;

    /// `generation` must not be 0; an index of 2^24 and more gives `NONE`.
    pub const fn new(index: u32, generation: u32) -> ConnId {
        if generation == 0 || index >> Self::INDEX_BITS != 0 {
            return ConnId::NONE;
        }
        ConnId(index as u64 | (generation as u64) << Self::INDEX_BITS)
    }
    pub const fn index(self) -> u32 {
        (self.0 & ((1 << Self::INDEX_BITS) - 1)) as u32
    }
    pub const fn generation(self) -> u32 {
        (self.0 >> Self::INDEX_BITS) as u32
    }
    pub const fn to_u64(self) -> u64 {
        self.0
    }
    pub const fn from_u64(raw: u64) -> ConnId {
        ConnId(raw)
    }
    pub const fn is_valid(self) -> bool {
        self.generation() != 0
    }
}

/// One SSL call in progress.
#[derive(Clone, Copy)]
#[repr(C)]
pub struct Frame {
    pub conn: ConnId,
    /// The `SSL *`, as a number: never dereferenced from here.
    pub ssl: usize,
    /// Stack address of the function that pushed the frame.
    pub addr: usize,
    pub read_errno: i32,
    pub write_errno: i32,
    pub flags: u32,
    spare: u32,
}

#[repr(C)]
struct Slot {
    depth: usize,
    ctrl_depth: usize,
    ctrl_addr: usize,
    caller: usize,
    frames: [Frame; DEPTH],
}

/// Token of a push that found no room: popping it changes nothing.
const NO_ROOM: usize = usize::MAX;

#[inline(always)]
fn slot() -> *mut Slot {
    let p: *mut Slot;
    // SAFETY: reads the thread pointer and the slot's constant offset from it,
    // which the loader filled in when it set up static TLS; touches no memory
    // that changes, no flags but those `add` sets.
    unsafe {
        asm!(
            "mov {p}, qword ptr [rip + ktlsshim_thread_slot@GOTTPOFF]",
            "add {p}, qword ptr fs:[0]",
            p = out(reg) p,
            options(pure, readonly, nostack),
        );
    }
    p
}

/// The stack pointer of the function it is inlined into.
#[inline(always)]
pub fn stack() -> usize {
    let sp: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) sp, options(nomem, nostack, preserves_flags)) };
    sp
}

/// True when this thread may be inside an SSL call. May be a stale yes, never a
/// wrong no. One load: it is on the path of every hooked libc call.
#[inline(always)]
pub fn any_frame() -> bool {
    // SAFETY: the slot is this thread's own and lives as long as the thread.
    unsafe { (*slot()).depth != 0 }
}

/// Is the function that ran at `addr` certainly gone, seen from `sp`?
#[inline(always)]
fn gone(addr: usize, sp: usize) -> bool {
    addr < sp && sp - addr < ONE_STACK
}

/// A number that no other living thread of this process has.
#[inline(always)]
pub fn identity() -> usize {
    slot() as usize
}

/// Notes who called the OpenSSL hook that this thread is in, and gives what was
/// noted before, to be put back. Left stale by siglongjmp, it is wrong only until
/// the next hook is entered.
#[inline(always)]
pub fn swap_caller(ret: usize) -> usize {
    // SAFETY: as in `any_frame`.
    unsafe { core::mem::replace(&mut (*slot()).caller, ret) }
}

/// What `swap_caller` noted; 0 outside hooks.
#[inline(always)]
pub fn caller() -> usize {
    // SAFETY: as in `any_frame`.
    unsafe { (*slot()).caller }
}

/// Drops stale frames and returns how many are left.
fn settle(sp: usize) -> usize {
    let s = slot();
    // SAFETY: as in `any_frame`; signal handlers of this thread may run between
    // the loads, but leave `depth` as they found it or lower it for the same
    // reason as we do.
    unsafe {
        let mut depth = (*s).depth.min(DEPTH);
        while let Some(f) = depth.checked_sub(1).and_then(|i| (*s).frames.get(i)) {
            if !gone(f.addr, sp) {
                break;
            }
            depth -= 1;
        }
        (*s).depth = depth;
        depth
    }
}

/// Enters an SSL call. `addr` is `stack()` of the calling operation. The token
/// goes to `pop`. With more than eight nested SSL calls the outer frame stays on
/// top, so such a call finds no frame of its own and must take the slow path.
pub fn push(conn: ConnId, ssl: usize, addr: usize) -> usize {
    let depth = settle(addr);
    let frame = Frame {
        conn,
        ssl,
        addr,
        read_errno: 0,
        write_errno: 0,
        flags: 0,
        spare: 0,
    };
    // SAFETY: as in `any_frame`. The frame is written before `depth` covers it,
    // so a signal handler never sees a half-made one.
    unsafe {
        let s = slot();
        match (*s).frames.get_mut(depth) {
            Some(place) => *place = frame,
            None => return NO_ROOM,
        }
        core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::Release);
        (*s).depth = depth + 1;
    }
    depth
}

/// Leaves the SSL call that got `token`, and every call inside it.
pub fn pop(token: usize) {
    if token != NO_ROOM {
        // SAFETY: as in `any_frame`.
        unsafe {
            let s = slot();
            (*s).depth = (*s).depth.min(token);
        }
    }
}

/// How many SSL calls this thread is in.
pub fn depth() -> usize {
    if any_frame() { settle(stack()) } else { 0 }
}

/// A copy of the innermost frame.
pub fn top() -> Option<Frame> {
    with_top(|f| *f)
}

/// Runs `f` on the innermost frame. `f` must not push or pop.
pub fn with_top<R>(f: impl FnOnce(&mut Frame) -> R) -> Option<R> {
    let i = depth().checked_sub(1)?;
    // SAFETY: as in `any_frame`; the reference ends with `f`, and code that runs
    // in between on this thread (a signal handler) pushes behind it.
    unsafe { (*slot()).frames.get_mut(i).map(f) }
}

/// Runs `f` on the frame that got `token` from `push`, if it is still there.
pub fn with<R>(token: usize, f: impl FnOnce(&mut Frame) -> R) -> Option<R> {
    if token >= depth() {
        return None;
    }
    // SAFETY: as in `with_top`.
    unsafe { (*slot()).frames.get_mut(token).map(f) }
}

/// Marks that a hooked `BIO_ctrl` is active: one that arrives meanwhile was
/// forwarded by a filter, not asked by the program.
#[inline(never)]
pub fn bio_ctrl_enter() {
    let sp = stack();
    // SAFETY: as in `any_frame`.
    unsafe {
        let s = slot();
        if (*s).ctrl_depth == 0 || gone((*s).ctrl_addr, sp) {
            (*s).ctrl_depth = 0;
            (*s).ctrl_addr = sp;
        }
        (*s).ctrl_depth += 1;
    }
}

/// Ends the innermost `bio_ctrl_enter`.
pub fn bio_ctrl_leave() {
    // SAFETY: as in `any_frame`.
    unsafe {
        let s = slot();
        (*s).ctrl_depth = (*s).ctrl_depth.saturating_sub(1);
    }
}

/// Is a hooked `BIO_ctrl` of this thread active?
#[inline(never)]
pub fn in_bio_ctrl() -> bool {
    let sp = stack();
    // SAFETY: as in `any_frame`.
    unsafe {
        let s = slot();
        if (*s).ctrl_depth != 0 && gone((*s).ctrl_addr, sp) {
            (*s).ctrl_depth = 0;
        }
        (*s).ctrl_depth != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let id = ConnId::new(77, 3);
        assert_eq!((id.index(), id.generation()), (77, 3));
        assert_eq!(ConnId::from_u64(id.to_u64()), id);
        assert!(!ConnId::new(1 << 24, 1).is_valid());
        assert!(!ConnId::new(1, 0).is_valid());
        assert!(ConnId::new(0, 1).to_u64() > 1);
        assert_eq!(ConnId::new(5, u32::MAX).generation(), u32::MAX);
    }

    #[test]
    fn frames_nest() {
        assert!(!any_frame());
        let a = push(ConnId::new(1, 1), 11, stack());
        let b = push(ConnId::new(2, 1), 22, stack());
        assert_eq!(depth(), 2);
        assert_eq!(top().map(|f| f.ssl), Some(22));
        with_top(|f| f.read_errno = 9);
        assert_eq!(with(b, |f| f.read_errno), Some(9));
        assert_eq!(with(a, |f| f.ssl), Some(11));
        pop(b);
        assert_eq!(top().map(|f| f.ssl), Some(11));
        pop(a);
        assert!(!any_frame() && top().is_none());
    }

    #[inline(never)]
    fn left_behind(n: usize) -> usize {
        let pad = core::hint::black_box([0u8; 512]);
        if n > 0 {
            return left_behind(n - 1).wrapping_add(pad.len());
        }
        push(ConnId::new(1, 1), 1, stack())
    }

    #[test]
    fn a_frame_without_its_function_is_dropped() {
        left_behind(3);
        assert!(any_frame());
        assert!(top().is_none());
        assert!(!any_frame());
    }

    #[test]
    fn too_deep_keeps_the_outer_frames() {
        let here = stack();
        let tokens: Vec<usize> = (0..12)
            .map(|i| push(ConnId::new(i, 1), i as usize, here))
            .collect();
        assert_eq!(depth(), DEPTH);
        assert_eq!(top().map(|f| f.ssl), Some(DEPTH - 1));
        for t in tokens.into_iter().rev() {
            pop(t);
        }
        assert_eq!(depth(), 0);
    }

    #[test]
    fn another_stack_is_no_evidence() {
        let far = stack() - 4 * ONE_STACK;
        let t = push(ConnId::new(1, 1), 1, far);
        assert_eq!(depth(), 1);
        pop(t);
    }

    #[test]
    fn threads_have_their_own_slot() {
        let t = push(ConnId::new(1, 1), 1, stack());
        assert!(!std::thread::spawn(any_frame).join().unwrap_or(true));
        pop(t);
    }

    #[test]
    fn ctrl_nests() {
        assert!(!in_bio_ctrl());
        bio_ctrl_enter();
        bio_ctrl_enter();
        bio_ctrl_leave();
        assert!(in_bio_ctrl());
        bio_ctrl_leave();
        assert!(!in_bio_ctrl());
    }
}
