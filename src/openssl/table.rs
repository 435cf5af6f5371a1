//! Tables of function pointers that belong to *one* shared object.
//!
//! The shim links neither libssl nor libcrypto: what it calls is looked up in
//! the copy that the program itself uses. One macro makes the struct, the
//! names and the look-up from a single list, so that a field can never hold
//! another function's address. A table owns nothing; whoever resolves it keeps
//! the shared object loaded for as long as the table may be used (forever).

/// ```text
/// fn_table! {
///     pub struct Table {
///         required { fn SSL_read(s: *mut Ssl, b: *mut c_void, n: c_int) -> c_int; }
///         optional { fn SSL_write_ex2(…) -> c_int; fn SSL_get1_peer | SSL_get_peer(…) -> …; }
///         with     { pub crypto: &'static crypto::Table; }
///     }
/// }
/// ```
///
/// `required` functions become plain `extern "C-unwind"` pointers (a missing one means
/// no table at all), `optional` ones become `Option`s, both with older names
/// after `|`. `with` fields are handed to `resolve` in their order.
macro_rules! fn_table {
    (
        $(#[$attr:meta])*
        pub struct $table:ident {
            required { $( fn $name:ident $(| $alias:ident)* ( $($arg:tt)* ) $(-> $ret:ty)? ; )* }
            optional { $( fn $oname:ident $(| $oalias:ident)* ( $($oarg:tt)* ) $(-> $oret:ty)? ; )* }
            with { $( $(#[$xattr:meta])* pub $extra:ident : $xty:ty ; )* }
        }
    ) => {
        $(#[$attr])*
        #[allow(non_snake_case, reason = "fields carry the names of the C functions")]
        pub struct $table {
            $( pub $name: unsafe extern "C-unwind" fn($($arg)*) $(-> $ret)?, )*
            $( pub $oname: Option<unsafe extern "C-unwind" fn($($oarg)*) $(-> $oret)?>, )*
            $( $(#[$xattr])* pub $extra: $xty, )*
        }

        impl $table {
            /// Every name that `resolve` may ask for, required ones first.
            pub const NAMES: &'static [&'static ::core::ffi::CStr] = &[
                $( $crate::openssl::table::c_name(concat!(stringify!($name), "\0")),
                   $( $crate::openssl::table::c_name(concat!(stringify!($alias), "\0")), )* )*
                $( $crate::openssl::table::c_name(concat!(stringify!($oname), "\0")),
                   $( $crate::openssl::table::c_name(concat!(stringify!($oalias), "\0")), )* )*
            ];

            /// # Safety
            /// `find` answers null or the address of the function of that name
            /// as OpenSSL declares it, in an object that is never unloaded.
            #[allow(clippy::missing_transmute_annotations, reason = "the field's type is the annotation")]
            pub unsafe fn resolve(
                find: &mut dyn FnMut(&::core::ffi::CStr) -> *mut ::core::ffi::c_void
                $(, $extra: $xty)*
            ) -> Option<Self> {
                Some(Self {
                    $( $name: {
                        let address = $crate::openssl::table::first(find, &[
                            $crate::openssl::table::c_name(concat!(stringify!($name), "\0")),
                            $( $crate::openssl::table::c_name(concat!(stringify!($alias), "\0")), )*
                        ])?;
                        // SAFETY: not null, and by the contract of `resolve` it is this very function.
                        unsafe { ::core::mem::transmute(address.as_ptr()) }
                    }, )*
                    $( $oname: $crate::openssl::table::first(find, &[
                            $crate::openssl::table::c_name(concat!(stringify!($oname), "\0")),
                            $( $crate::openssl::table::c_name(concat!(stringify!($oalias), "\0")), )*
                        ])
                        // SAFETY: not null, and by the contract of `resolve` it is this very function.
                        .map(|address| unsafe { ::core::mem::transmute(address.as_ptr()) }), )*
                    $( $extra, )*
                })
            }
        }
    };
}
pub(crate) use fn_table;

use core::ffi::{CStr, c_void};
use core::ptr::NonNull;

/// A C string from `concat!(…, "\0")`; evaluated by the compiler.
pub const fn c_name(name: &'static str) -> &'static CStr {
    match CStr::from_bytes_with_nul(name.as_bytes()) {
        Ok(name) => name,
        Err(_) => c"",
    }
}

/// The first name that `find` knows.
pub fn first(
    find: &mut dyn FnMut(&CStr) -> *mut c_void,
    names: &[&'static CStr],
) -> Option<NonNull<c_void>> {
    names.iter().find_map(|name| NonNull::new(find(name)))
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
    use core::ffi::c_int;

    fn_table! {
        pub struct Sample {
            required { fn abs(n: c_int) -> c_int; fn new_abs | labs(n: c_int) -> c_int; }
            optional { fn no_such_function(n: c_int); fn no_such_either | llabs(n: c_int) -> c_int; }
            with { pub tag: u8; }
        }
    }

    extern "C-unwind" fn stand_in(n: c_int) -> c_int {
        n + 1
    }

    fn lookup(known: &'static [&'static CStr]) -> impl FnMut(&CStr) -> *mut c_void {
        move |name| {
            if known.contains(&name) {
                stand_in as *mut c_void
            } else {
                core::ptr::null_mut()
            }
        }
    }

    #[test]
    fn names_are_resolved_with_aliases() {
        // SAFETY: every name that is answered has the type of `stand_in`.
        let table = unsafe { Sample::resolve(&mut lookup(&[c"abs", c"labs", c"llabs"]), 7) };
        let Some(table) = table else {
            panic!("all required names were there")
        };
        // SAFETY: both are `stand_in`.
        assert_eq!(unsafe { ((table.abs)(1), (table.new_abs)(2)) }, (2, 3));
        assert!(table.no_such_function.is_none());
        assert!(table.no_such_either.is_some());
        assert_eq!(table.tag, 7);
        assert_eq!(Sample::NAMES.len(), 6);
    }

    #[test]
    fn a_missing_required_name_is_no_table() {
        // SAFETY: as above.
        assert!(unsafe { Sample::resolve(&mut lookup(&[c"abs"]), 0) }.is_none());
    }
}
