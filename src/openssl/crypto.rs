//! STAND-IN: replaced at merge by the real table.
use super::Bio;
use core::ffi::CStr;
use libc::{c_char, c_int, c_long, c_void, size_t};

#[allow(non_snake_case)]
pub struct Table {
    pub BIO_read: unsafe extern "C-unwind" fn(*mut Bio, *mut c_void, c_int) -> c_int,
    pub BIO_read_ex:
        unsafe extern "C-unwind" fn(*mut Bio, *mut c_void, size_t, *mut size_t) -> c_int,
    pub BIO_write: unsafe extern "C-unwind" fn(*mut Bio, *const c_void, c_int) -> c_int,
    pub BIO_write_ex:
        unsafe extern "C-unwind" fn(*mut Bio, *const c_void, size_t, *mut size_t) -> c_int,
    pub BIO_puts: unsafe extern "C-unwind" fn(*mut Bio, *const c_char) -> c_int,
    pub BIO_gets: unsafe extern "C-unwind" fn(*mut Bio, *mut c_char, c_int) -> c_int,
    pub BIO_ctrl: unsafe extern "C-unwind" fn(*mut Bio, c_int, c_long, *mut c_void) -> c_long,
}

impl Table {
    pub fn resolve(find: &mut dyn FnMut(&CStr) -> *mut c_void) -> Option<Table> {
        // SAFETY: stand-in.
        unsafe {
            use core::mem::transmute;
            Some(Table {
                BIO_read: transmute::<*mut c_void, Option<_>>(find(c"BIO_read"))?,
                BIO_read_ex: transmute::<*mut c_void, Option<_>>(find(c"BIO_read_ex"))?,
                BIO_write: transmute::<*mut c_void, Option<_>>(find(c"BIO_write"))?,
                BIO_write_ex: transmute::<*mut c_void, Option<_>>(find(c"BIO_write_ex"))?,
                BIO_puts: transmute::<*mut c_void, Option<_>>(find(c"BIO_puts"))?,
                BIO_gets: transmute::<*mut c_void, Option<_>>(find(c"BIO_gets"))?,
                BIO_ctrl: transmute::<*mut c_void, Option<_>>(find(c"BIO_ctrl"))?,
            })
        }
    }
}
