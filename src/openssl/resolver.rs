//! From a caller's address to the OpenSSL that this caller means.
//!
//! A process may hold several copies of libssl (P2), and Python loads its copy
//! RTLD_LOCAL, where RTLD_NEXT does not look (P1). So the answer starts from the
//! object that called: what it, or its dependencies, would have been bound to
//! without us. The main program's own search list contains us, so there the name
//! of the library that it asks for decides; then RTLD_NEXT, then well-known names. Only
//! copies that are already loaded are ever opened (P3). All functions of a table
//! come from one object, and none of them is ours (P6).
//!
//! Libraries are pinned by a reference that is never given back (P4), their tables
//! live for ever. Answers are cached by the caller's address range without locks.
//! A plugin that is unloaded, with one that means *another* libssl mapped over the
//! same addresses, would get the old answer: accepted, because pinning plugins
//! would change when their destructors run.

use super::{crypto, ssl};
use crate::errno;
use core::ffi::CStr;
use core::ptr::{null, null_mut};
use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering::*};
use libc::{c_char, c_int, c_void, dl_phdr_info, size_t};

pub use crate::real;

const LIBRARIES: usize = 16;
const CALLERS: usize = 128;

/// Newest first: a process with two of them resolves by caller anyway.
const SSL_NAMES: [&CStr; 4] = [
    c"libssl.so.4",
    c"libssl.so.3",
    c"libssl.so.1.1",
    c"libssl.so",
];
const CRYPTO_NAMES: [&CStr; 4] = [
    c"libcrypto.so.4",
    c"libcrypto.so.3",
    c"libcrypto.so.1.1",
    c"libcrypto.so",
];
const SSL_PROBE: &CStr = c"SSL_new";
const CRYPTO_PROBE: &CStr = c"BIO_new";

#[derive(Clone, Copy)]
pub struct Caller {
    pub ssl: Option<&'static ssl::Table>,
    pub crypto: Option<&'static crypto::Table>,
    pub in_libssl: bool,
    pub in_libcrypto: bool,
}

/// One loaded object that defines OpenSSL functions. A table is missing when the
/// object lacks functions that we need; its functions can still be passed through.
struct Library {
    start: usize,
    end: usize,
    handle: usize,
    ssl: Option<ssl::Table>,
    crypto: Option<&'static crypto::Table>,
}

static LIBS: [AtomicPtr<Library>; LIBRARIES] = [const { AtomicPtr::new(null_mut()) }; LIBRARIES];
static LIB_COUNT: AtomicUsize = AtomicUsize::new(0);

/// One caller's object. `seen` is the number of libraries known when it was filled:
/// a missing table is looked for again once that has grown.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    ssl: AtomicPtr<Library>,
    crypto: AtomicPtr<Library>,
    seen: AtomicUsize,
}

static SLOTS: [Slot; CALLERS] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        ssl: AtomicPtr::new(null_mut()),
        crypto: AtomicPtr::new(null_mut()),
        seen: AtomicUsize::new(0),
    }
}; CALLERS];
static SLOTS_TAKEN: AtomicUsize = AtomicUsize::new(0);

type Lib = Option<&'static Library>;

fn library(p: *mut Library) -> Lib {
    // SAFETY: registered libraries are never freed.
    unsafe { p.as_ref() }
}

fn as_ptr(l: Lib) -> *mut Library {
    l.map_or(null_mut(), |l| core::ptr::from_ref(l).cast_mut())
}

fn cached(addr: usize) -> Option<&'static Slot> {
    let taken = SLOTS_TAKEN.load(Acquire).min(CALLERS);
    // `end` is published last and is 0 until then.
    SLOTS
        .iter()
        .take(taken)
        .find(|s| addr < s.end.load(Acquire) && addr >= s.start.load(Relaxed))
}

fn describe(addr: usize, ssl: Lib, crypto: Lib) -> Caller {
    Caller {
        ssl: ssl.and_then(|l| l.ssl.as_ref()),
        crypto: crypto.and_then(|l| l.crypto),
        in_libssl: ssl.is_some_and(|l| addr >= l.start && addr < l.end),
        in_libcrypto: crypto.is_some_and(|l| addr >= l.start && addr < l.end),
    }
}

/// Whose code is at `ret`, and which OpenSSL does it mean?
///
/// An address of ours means that the library which a hook has called jumped to
/// another hook instead of calling it (SSL_connect ends in SSL_do_handshake): the
/// caller is that library, one of the two, and what the first hook's caller means
/// is meant.
#[inline]
pub fn caller(ret: usize) -> Caller {
    let (ssl, crypto) = libs(origin(ret), false);
    let mut found = describe(ret, ssl, crypto);
    if is_own(ret) {
        (found.in_libssl, found.in_libcrypto) = (true, true);
    }
    found
}

#[inline]
fn origin(ret: usize) -> usize {
    if is_own(ret) {
        crate::thread::caller()
    } else {
        ret
    }
}

/// True if there is no table for this caller's libssl, so that an operation could
/// not even make the real call: the hook must use `bare` itself.
#[inline]
pub fn no_ssl(ret: usize) -> bool {
    libs(origin(ret), true).0.is_none_or(|l| l.ssl.is_none())
}

/// The same for libcrypto.
#[inline]
pub fn no_crypto(ret: usize) -> bool {
    libs(origin(ret), false)
        .1
        .is_none_or(|l| l.crypto.is_none())
}

/// One function of the caller's libssl or libcrypto by name; null if there is none.
#[cold]
pub fn bare(ret: usize, name: &CStr) -> *mut c_void {
    errno::preserve(|| {
        let (ssl, crypto) = libs(origin(ret), true);
        let mut p = [ssl, crypto]
            .into_iter()
            .flatten()
            .map(|l| l.find(name))
            .find(|p| !p.is_null());
        if p.is_none() {
            // SAFETY: a C string and the handle that means "after this object".
            p = Some(unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) })
                .filter(|&p| !is_own(p as usize));
        }
        forget_failures();
        p.unwrap_or(null_mut())
    })
}

/// Drops the message of a failed look-up of ours, which the program would else find
/// in its own next dlerror().
fn forget_failures() {
    // SAFETY: takes nothing.
    unsafe { libc::dlerror() };
}

#[inline]
fn libs(ret: usize, need_ssl: bool) -> (Lib, Lib) {
    let slot = cached(ret);
    if let Some(s) = slot {
        let (ssl, crypto) = (
            library(s.ssl.load(Acquire)),
            library(s.crypto.load(Acquire)),
        );
        let settled =
            s.seen.load(Relaxed) == LIB_COUNT.load(Relaxed) && !(need_ssl && ssl.is_none());
        if (ssl.is_some() && crypto.is_some()) || settled {
            return (ssl, crypto);
        }
    }
    errno::preserve(|| look_up(ret, slot))
}

#[cold]
#[inline(never)]
fn look_up(ret: usize, slot: Option<&'static Slot>) -> (Lib, Lib) {
    let seen = LIB_COUNT.load(Acquire);
    let object = Object::of(ret);
    let ssl = find_ssl(object.as_ref());
    let crypto = match (ssl, object.as_ref()) {
        // The libcrypto that libssl itself uses, also for libssl's callers.
        (Some(l), _) if l.crypto.is_some() => {
            registered(|c| same(c.crypto, l.crypto) && c.ssl.is_none()).or(Some(l))
        }
        (_, o) => find_crypto(o),
    };
    forget_failures();
    let seen = if ssl.is_some() {
        LIB_COUNT.load(Acquire)
    } else {
        seen
    };
    match (slot, object) {
        (Some(s), _) => fill(s, ssl, crypto, seen),
        (None, Some(o)) => {
            // Taken for good: two threads may take one each for the same object.
            if let Some(s) = SLOTS.get(SLOTS_TAKEN.fetch_add(1, AcqRel).min(CALLERS)) {
                s.start.store(o.start, Relaxed);
                fill(s, ssl, crypto, seen);
                s.end.store(o.end, Release);
            }
        }
        // Code in no object (generated at run time): nothing to remember it by.
        (None, None) => {}
    }
    (ssl, crypto)
}

fn fill(s: &Slot, ssl: Lib, crypto: Lib, seen: usize) {
    s.ssl.store(as_ptr(ssl), Release);
    s.crypto.store(as_ptr(crypto), Release);
    s.seen.store(seen, Relaxed);
}

fn same(a: Option<&'static crypto::Table>, b: Option<&'static crypto::Table>) -> bool {
    matches!((a, b), (Some(a), Some(b)) if core::ptr::eq(a, b))
}

fn find_ssl(object: Option<&Object>) -> Lib {
    if let Some(o) = object {
        // A libcrypto calls back for whichever libssl sits on top of *it*.
        if let Some(c) = o
            .tree(CRYPTO_PROBE)
            .filter(|l| l.start == o.start && l.find(SSL_PROBE).is_null())
        {
            return registered(|l| l.ssl.is_some() && same(l.crypto, c.crypto));
        }
        if let Some(l) = o
            .tree(SSL_PROBE)
            .or_else(|| o.needed(b"libssl.so", SSL_PROBE))
        {
            return Some(l);
        }
    }
    next(SSL_PROBE).or_else(|| SSL_NAMES.iter().find_map(|n| loaded(n, SSL_PROBE)))
}

fn find_crypto(object: Option<&Object>) -> Lib {
    if let Some(o) = object
        && let Some(l) = o
            .tree(CRYPTO_PROBE)
            .or_else(|| o.needed(b"libcrypto.so", CRYPTO_PROBE))
    {
        return Some(l);
    }
    next(CRYPTO_PROBE).or_else(|| CRYPTO_NAMES.iter().find_map(|n| loaded(n, CRYPTO_PROBE)))
}

fn next(probe: &CStr) -> Lib {
    // SAFETY: a C string and the handle that means "after this object".
    owner(unsafe { libc::dlsym(libc::RTLD_NEXT, probe.as_ptr()) })
}

/// The copy with this name, if it is loaded already.
fn loaded(name: &CStr, probe: &CStr) -> Lib {
    with_handle(name, |h| owner(h.symbol(probe)))
}

/// The library that defines the function at `p`.
fn owner(p: *mut c_void) -> Lib {
    let p = p as usize;
    if p == 0 || is_own(p) {
        return None;
    }
    registered(|l| p >= l.start && p < l.end).or_else(|| register(&Object::of(p)?))
}

fn registered(what: impl Fn(&Library) -> bool) -> Lib {
    LIBS.iter()
        .filter_map(|p| library(p.load(Acquire)))
        .find(|l| what(l))
}

/// Pins an object and makes its tables.
fn register(o: &Object) -> Lib {
    let handle = o.open()?;
    let mut fresh = Library {
        start: o.start,
        end: o.end,
        handle: handle.0 as usize,
        ssl: None,
        crypto: None,
    };
    let has = |name: &CStr| !fresh.find(name).is_null();
    let (has_ssl, has_crypto) = (has(SSL_PROBE), has(CRYPTO_PROBE));
    if has_crypto {
        // SAFETY: one loaded object that defines libcrypto's names; it stays loaded.
        fresh.crypto = unsafe { crypto::Table::resolve(&mut |n| fresh.find(n)) }
            .and_then(|t| Some(&*crate::sys::immortal(t)?));
    } else if has_ssl {
        fresh.crypto = owner(handle.symbol(CRYPTO_PROBE)).and_then(|l| l.crypto);
    }
    if has_ssl && let Some(c) = fresh.crypto {
        fresh.ssl = ssl::Table::resolve(c, &mut |n| fresh.find(n));
    }
    let start = fresh.start;
    let fresh: *mut Library = crate::sys::immortal(fresh)?;
    for place in &LIBS {
        match place.compare_exchange(null_mut(), fresh, AcqRel, Acquire) {
            Ok(_) => {
                LIB_COUNT.fetch_add(1, AcqRel);
                return library(fresh);
            }
            // Another thread registered it meanwhile: the first one counts. Ours, and
            // its libcrypto table, are lost: once per race, never twice.
            Err(other) => {
                if let Some(l) = library(other).filter(|l| l.start == start) {
                    return Some(l);
                }
            }
        }
    }
    None
}

impl Library {
    /// A function of exactly this object.
    fn find(&self, name: &CStr) -> *mut c_void {
        let p = Handle(self.handle as *mut c_void).symbol(name);
        let at = p as usize;
        if at >= self.start && at < self.end {
            p
        } else {
            null_mut()
        }
    }
}

/// A loader handle that somebody else gives back.
struct Handle(*mut c_void);

impl Handle {
    fn symbol(&self, name: &CStr) -> *mut c_void {
        // SAFETY: a live handle and a C string.
        unsafe { libc::dlsym(self.0, name.as_ptr()) }
    }
}

/// Runs `f` with a handle of an object that is already loaded.
fn with_handle<R>(name: &CStr, f: impl FnOnce(Handle) -> Option<R>) -> Option<R> {
    // SAFETY: NOLOAD never maps anything; the name is a C string.
    let h = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
    if h.is_null() {
        return None;
    }
    let result = f(Handle(h));
    // SAFETY: gives back the reference that dlopen just added, no more.
    unsafe { libc::dlclose(h) };
    result
}

/// A loaded object, as the loader describes it.
struct Object {
    start: usize,
    end: usize,
    base: usize,
    dynamic: usize,
    name: *const c_char,
}

impl Object {
    /// The object that `addr` lies in.
    fn of(addr: usize) -> Option<Object> {
        struct Search {
            addr: usize,
            found: Option<Object>,
        }
        unsafe extern "C" fn visit(info: *mut dl_phdr_info, _: size_t, data: *mut c_void) -> c_int {
            // SAFETY: the loader passes a valid description, and our own Search.
            let (info, search) = unsafe { (&*info, &mut *data.cast::<Search>()) };
            let base = info.dlpi_addr as usize;
            let (mut start, mut end, mut dynamic) = (usize::MAX, 0, 0);
            if info.dlpi_phdr.is_null() {
                return 0;
            }
            // SAFETY: the loader's own count of the program headers there.
            let headers =
                unsafe { core::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) };
            for ph in headers {
                let at = base.wrapping_add(ph.p_vaddr as usize);
                match ph.p_type {
                    libc::PT_LOAD => {
                        start = start.min(at);
                        end = end.max(at.wrapping_add(ph.p_memsz as usize));
                    }
                    libc::PT_DYNAMIC => dynamic = at,
                    _ => {}
                }
            }
            if search.addr >= start && search.addr < end {
                search.found = Some(Object {
                    start,
                    end,
                    base,
                    dynamic,
                    name: info.dlpi_name,
                });
                return 1;
            }
            0
        }
        let mut search = Search { addr, found: None };
        // SAFETY: `visit` has the type the loader calls, and only while we wait.
        unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut search).cast()) };
        search.found
    }

    fn is_main(&self) -> bool {
        // SAFETY: null or a C string of the loader's that lives as long as the object,
        // whose code is on our stack.
        self.name.is_null() || unsafe { *self.name } == 0
    }

    /// A reference that the caller keeps for ever.
    fn open(&self) -> Option<Handle> {
        let name = if self.is_main() { null() } else { self.name };
        // SAFETY: NOLOAD never maps anything; null means the main program.
        let h = unsafe { libc::dlopen(name, libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
        (!h.is_null()).then_some(Handle(h))
    }

    /// What `probe` means in this object and what it depends on. Not for the main
    /// program: its list is the global one, where we come first.
    fn tree(&self, probe: &CStr) -> Lib {
        if self.is_main() || is_own(self.start) {
            return None;
        }
        // SAFETY: as in `is_main`.
        with_handle(unsafe { CStr::from_ptr(self.name) }, |h| {
            owner(h.symbol(probe))
        })
    }

    /// The loaded library that this object asks for by a name that begins so.
    fn needed(&self, begins: &[u8], probe: &CStr) -> Lib {
        if is_own(self.start) {
            return None;
        }
        self.needs().find_map(|n| {
            if n.to_bytes().starts_with(begins) {
                loaded(n, probe)
            } else {
                None
            }
        })
    }

    /// The names in DT_NEEDED.
    fn needs(&self) -> impl Iterator<Item = &CStr> {
        let mut strings = 0usize;
        // SAFETY: each entry before DT_NULL is part of the object's dynamic section.
        let entries = (0..).map_while(move |i| unsafe { entry(self.dynamic, i) });
        for (tag, value) in entries.clone() {
            if tag == DT_STRTAB {
                // The loader relocates it in place on this architecture.
                strings = if value < self.base {
                    self.base.wrapping_add(value)
                } else {
                    value
                };
            }
        }
        entries
            .filter(move |&(tag, _)| tag == DT_NEEDED && strings != 0)
            // SAFETY: an offset into the object's own string table.
            .map(move |(_, at)| unsafe { CStr::from_ptr((strings + at) as *const c_char) })
    }
}

const DT_NULL: usize = 0;
const DT_NEEDED: usize = 1;
const DT_STRTAB: usize = 5;

/// # Safety
/// `dynamic` is 0 or a dynamic section with more than `i` entries.
unsafe fn entry(dynamic: usize, i: usize) -> Option<(usize, usize)> {
    if dynamic == 0 {
        return None;
    }
    // SAFETY: the caller's promise.
    let [tag, value] = unsafe { *((dynamic as *const [usize; 2]).add(i)) };
    (tag != DT_NULL).then_some((tag, value))
}

/// Does `addr` lie in the shim itself?
#[inline]
pub fn is_own(addr: usize) -> bool {
    static START: AtomicUsize = AtomicUsize::new(0);
    static END: AtomicUsize = AtomicUsize::new(0);
    if END.load(Acquire) == 0 {
        let Some(o) = Object::of(is_own as *const () as usize) else {
            return false;
        };
        START.store(o.start, Relaxed);
        END.store(o.end, Release);
    }
    addr >= START.load(Relaxed) && addr < END.load(Relaxed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)] // A test may fail loudly.
#[path = "resolver_test.rs"]
mod tests;
