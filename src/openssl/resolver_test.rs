//! Runs on the machine's own libssl 3, loaded the way Python does it: RTLD_LOCAL.

use super::*;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

fn open(name: &Path) -> Handle {
    let name = CString::new(name.as_os_str().as_bytes()).unwrap();
    // SAFETY: loads a real library, for good.
    let h = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!h.is_null(), "{name:?}: install libssl3");
    Handle(h)
}

fn path_of(addr: usize) -> PathBuf {
    let o = Object::of(addr).unwrap();
    // SAFETY: the loader's string of a library that stays.
    PathBuf::from(std::ffi::OsStr::from_bytes(
        unsafe { CStr::from_ptr(o.name) }.to_bytes(),
    ))
}

/// The copies that a process holds are process-wide state, and other tests load
/// libcrypto too: so this one runs in a process of its own.
#[test]
fn each_caller_gets_its_own_openssl() {
    const ALONE: &str = "KTLSSHIM_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return alone();
    }
    let name = "openssl::resolver::tests::each_caller_gets_its_own_openssl";
    let run = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(ALONE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success() && said.contains("1 passed"),
        "{said}{}",
        String::from_utf8_lossy(&run.stderr)
    );
}

fn alone() {
    let here = alone as *const () as usize;
    assert!(is_own(here) && !is_own(libc::abort as *const () as usize));
    assert!(
        no_ssl(here) && caller(here).crypto.is_none(),
        "something loaded OpenSSL before the test"
    );
    crate::errno::set(99);

    let ssl = open(Path::new("libssl.so.3"));
    let in_ssl = ssl.symbol(c"SSL_read") as usize;
    let in_crypto = ssl.symbol(c"BIO_read") as usize;
    assert_ne!(
        Object::of(in_ssl).unwrap().start,
        Object::of(in_crypto).unwrap().start
    );

    // libcrypto alone is known first: no libssl is invented for it...
    let c = caller(in_crypto);
    assert!(c.in_libcrypto && !c.in_libssl && c.crypto.is_some() && c.ssl.is_none());

    // ...libssl itself...
    let s = caller(in_ssl);
    assert!(s.in_libssl && !s.in_libcrypto);
    let table = s.ssl.unwrap();
    assert_eq!(table.SSL_read as usize, in_ssl);
    assert!(core::ptr::eq(table.crypto, c.crypto.unwrap()));
    assert!(core::ptr::eq(s.crypto.unwrap(), c.crypto.unwrap()));

    // ...and then libcrypto's calls belong to it, also those from the cached address.
    assert!(core::ptr::eq(caller(in_crypto).ssl.unwrap(), table));

    // Nobody's code, and a jump out of the library that a hook called.
    assert!(!no_ssl(here) && core::ptr::eq(caller(here).ssl.unwrap(), table));
    assert!(caller(here).in_libssl && caller(here).in_libcrypto);
    let nowhere = crate::sys::map_anonymous(4096).unwrap() as usize;
    assert!(core::ptr::eq(caller(nowhere).ssl.unwrap(), table));

    // A second copy, under another path, is another libssl over the same libcrypto.
    let copy = std::env::temp_dir().join(format!("ktlsshim-libssl-{}.so", std::process::id()));
    std::fs::copy(path_of(in_ssl), &copy).unwrap();
    let second = open(&copy);
    std::fs::remove_file(&copy).unwrap();
    let in_second = second.symbol(c"SSL_read") as usize;
    assert_ne!(in_second, in_ssl);
    let t = caller(in_second);
    assert!(t.in_libssl && t.ssl.unwrap().SSL_read as usize == in_second);
    assert!(core::ptr::eq(t.ssl.unwrap().crypto, table.crypto));
    assert!(core::ptr::eq(caller(in_ssl).ssl.unwrap(), table));
    for (outer, meant) in [(in_second, t.ssl.unwrap()), (in_ssl, table)] {
        let before = crate::thread::swap_caller(outer);
        assert!(core::ptr::eq(caller(here).ssl.unwrap(), meant));
        crate::thread::swap_caller(before);
    }

    assert_eq!(bare(in_second, c"SSL_read") as usize, in_second);
    assert_eq!(bare(in_ssl, c"BIO_read") as usize, in_crypto);
    assert!(bare(in_ssl, c"SSL_no_such_function").is_null());
    assert_eq!(crate::errno::get(), 99);
    // SAFETY: takes nothing.
    let said = unsafe { libc::dlerror() };
    assert!(
        said.is_null(),
        "a failed look-up of ours was left for the program"
    );

    // Threads that meet a caller first together agree.
    let tables: Vec<usize> = std::thread::scope(|scope| {
        let all: Vec<_> = (0..8)
            .map(|i| {
                scope.spawn(move || core::ptr::from_ref(caller(in_ssl + i).ssl.unwrap()) as usize)
            })
            .collect();
        all.into_iter().map(|t| t.join().unwrap()).collect()
    });
    assert!(tables.iter().all(|&t| t == tables[0]));
}
