//! A place of ours in the ex_data of each object of one class (SSL or SSL_CTX).
//!
//! `CRYPTO_set_ex_data` takes no lock: it makes the object's stack of values, or
//! makes it longer, when the index lies beyond its end. Two threads that do this to
//! one object at once corrupt the heap, and a third may read another index from
//! memory that was just given back. So the value is put in place by OpenSSL's own
//! `CRYPTO_EX_new` callback, while the object is being made and nobody else knows
//! it; later stores then only replace a pointer. Objects older than the index have
//! no such place: their owner must keep their values elsewhere.
//!
//! Owns nothing but the index, which is never given back.

use super::crypto::{ExCallback, ExData, Table};
use core::ffi::{c_int, c_long, c_void};
use core::ptr;
use core::sync::atomic::{AtomicI32, Ordering};

const NONE: c_int = -1;
/// Somebody is making the index. Left like this in the child of a fork that
/// happened meanwhile: OpenSSL's own lock may have been copied in its locked state,
/// so to try again there could wait for ever.
const BUSY: c_int = -2;

pub struct Slot {
    class: c_int,
    index: AtomicI32,
}

impl Slot {
    pub const fn new(class: c_int) -> Slot {
        Slot {
            class,
            index: AtomicI32::new(NONE),
        }
    }

    /// The index, if there is one by now.
    pub fn known(&self) -> Option<c_int> {
        let index = self.index.load(Ordering::Acquire);
        (index >= 0).then_some(index)
    }

    /// The index, made now if need be. None while another thread makes it, too: the
    /// next call will find it (P13). `made` stores the first value of each new
    /// object through `place`; null is a value.
    pub fn get(
        &self,
        crypto: &'static Table,
        made: ExCallback,
        freed: ExCallback,
    ) -> Option<c_int> {
        if let Some(index) = self.known() {
            return Some(index);
        }
        self.index
            .compare_exchange(NONE, BUSY, Ordering::AcqRel, Ordering::Acquire)
            .ok()?;
        let argp = ptr::from_ref(crypto).cast_mut().cast();
        let new = crypto.quiet(|| {
            // SAFETY: the callbacks have the types of CRYPTO_EX_new and _free; the
            // table that `argp` names is never given back.
            unsafe {
                (crypto.CRYPTO_get_ex_new_index)(self.class, 0, argp, Some(made), None, Some(freed))
            }
        });
        self.index.store(new.max(NONE), Ordering::Release);
        (new >= 0).then_some(new)
    }
}

/// Stores an object's first value; false if there is no memory for it.
///
/// # Safety
/// The arguments are those that a CRYPTO_EX_new callback of a `Slot` was given.
pub unsafe fn place(ad: *mut ExData, index: c_int, argp: *mut c_void, value: *mut c_void) -> bool {
    // SAFETY: `get` registered its table here.
    let Some(crypto) = (unsafe { argp.cast::<Table>().as_ref() }) else {
        return false;
    };
    // SAFETY: the object is being made by this thread, so nobody else looks at `ad`.
    crypto.quiet(|| unsafe { (crypto.CRYPTO_set_ex_data)(ad, index, value) == 1 })
}

/// CRYPTO_EX_new for objects that begin without a value.
///
/// # Safety
/// To be called by OpenSSL.
pub unsafe extern "C" fn empty(
    _parent: *mut c_void,
    _value: *mut c_void,
    ad: *mut ExData,
    index: c_int,
    _argl: c_long,
    argp: *mut c_void,
) {
    crate::boundary::guard((), || {
        // SAFETY: OpenSSL's own arguments. Without memory the object has no place,
        // and OpenSSL's own next allocation fails as well.
        unsafe { place(ad, index, argp, ptr::null_mut()) };
    });
}
