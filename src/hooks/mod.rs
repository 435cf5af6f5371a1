//! The exported symbols. A hook decides one thing, whether the call concerns us,
//! and hands over: to the real function, or to `ops` inside the panic boundary.
//! `exports.txt` lists every symbol, and a test compares it with the library.
//!
//! A unit test must not replace the functions of its own process, so the symbols
//! exist in the library only.

#[cfg(not(test))]
pub mod bio;
#[cfg(not(test))]
pub mod libc;
#[cfg(not(test))]
pub mod ssl;

/// Makes hooks that know their caller. The exported function is naked: it puts the
/// return address into the first free argument register and jumps to the body, so
/// that the body sees the program's arguments, and its caller is the program.
///
/// When the caller's OpenSSL is one that we have no table for, the body calls the
/// function of that name and does nothing else. The caller is noted for hooks that
/// the library enters from inside by a jump (see `resolver::caller`).
#[cfg(not(test))]
macro_rules! traced {
    ($missing:path; $($symbol:ident($($v:ident: $t:ty),*) -> $r:ty, $fallback:expr, $op:path $(, $which:path)?;)*) => {
        mod body {
            use super::*;
            $(
                #[allow(non_snake_case)]
                pub unsafe extern "C" fn $symbol($($v: $t,)* ret: usize) -> $r {
                    let own = crate::openssl::resolver::is_own(ret);
                    let before = if own { 0 } else { crate::thread::swap_caller(ret) };
                    let result = crate::boundary::guard($fallback, || {
                        if $missing(ret) {
                            let name = concat!(stringify!($symbol), "\0");
                            let name = core::ffi::CStr::from_bytes_until_nul(name.as_bytes()).unwrap_or(c"");
                            let real = crate::openssl::resolver::bare(ret, name);
                            // SAFETY: OpenSSL's ABI fixes the type that belongs to this name.
                            let real: Option<unsafe extern "C-unwind" fn($($t),*) -> $r> = unsafe { core::mem::transmute(real) };
                            // SAFETY: the program's own call, with its own arguments.
                            return real.map_or($fallback, |f| unsafe { f($($v),*) });
                        }
                        // SAFETY: the program's own arguments, as it promised them to OpenSSL.
                        unsafe { $op(ret, $($which,)? $($v),*) }
                    });
                    if !own {
                        crate::thread::swap_caller(before);
                    }
                    result
                }
            )*
        }
        $(
            #[unsafe(naked)]
            #[unsafe(no_mangle)]
            #[allow(non_snake_case, clippy::missing_safety_doc)]
            pub unsafe extern "C" fn $symbol($($v: $t),*) -> $r {
                core::arch::naked_asm!(
                    concat!("mov ", crate::hooks::after!($($v)*), ", qword ptr [rsp]"),
                    "jmp {body}",
                    body = sym body::$symbol,
                )
            }
        )*
    };
}

/// The register of the argument after these, by the System V ABI. Counted here, since
/// a wrong one compiles, and works until a process holds two libssl copies.
#[cfg(not(test))]
macro_rules! after {
    ($a:ident) => {
        "rsi"
    };
    ($a:ident $b:ident) => {
        "rdx"
    };
    ($a:ident $b:ident $c:ident) => {
        "rcx"
    };
    ($a:ident $b:ident $c:ident $d:ident) => {
        "r8"
    };
    ($a:ident $b:ident $c:ident $d:ident $e:ident) => {
        "r9"
    };
}
#[cfg(not(test))]
pub(crate) use {after, traced};
