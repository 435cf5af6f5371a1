//! Many threads meet one SSL_CTX, or one SSL, that nobody has seen before. Runs on
//! the installed libssl, or on the one that TEST_LIBSSL names (TEST_LIBCRYPTO goes
//! with it).

use super::*;
use crate::openssl::crypto::tests::table as crypto;
use std::sync::OnceLock;

const THREADS: usize = 2;
const ROUNDS: usize = 2000;

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let crypto = crypto();
        let name = std::env::var("TEST_LIBSSL").unwrap_or("libssl.so.3".into());
        let c_name = std::ffi::CString::new(name.clone()).unwrap();
        // SAFETY: a C string; the library's constructors are OpenSSL's own.
        let lib = unsafe { libc::dlopen(c_name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        assert!(!lib.is_null(), "{name} is needed to test");
        // The program's own indices, beyond OpenSSL's first four places: a late
        // store has to make the stack longer.
        for class in [0, 1] {
            for _ in 0..12 {
                // SAFETY: an index without callbacks.
                let index = unsafe {
                    (crypto.CRYPTO_get_ex_new_index)(class, 0, ptr::null_mut(), None, None, None)
                };
                assert!(index > 0);
            }
        }
        // SAFETY: the handle is never closed, names are OpenSSL's.
        Table::resolve(crypto, &mut |name| unsafe {
            libc::dlsym(lib, name.as_ptr())
        })
        .unwrap()
    })
}

fn contexts(n: usize) -> Vec<usize> {
    static METHOD: OnceLock<usize> = OnceLock::new();
    let method = *METHOD.get_or_init(|| {
        table();
        let name = std::env::var("TEST_LIBSSL").unwrap_or("libssl.so.3".into());
        let c_name = std::ffi::CString::new(name).unwrap();
        // SAFETY: loaded already; TLS_method takes nothing.
        unsafe {
            let lib = libc::dlopen(c_name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
            let f = libc::dlsym(lib, c"TLS_method".as_ptr());
            assert!(!f.is_null());
            core::mem::transmute::<*mut c_void, extern "C" fn() -> usize>(f)()
        }
    });
    // SAFETY: a method of this very library.
    let new = || unsafe { (table().SSL_CTX_new)(method as *const _) as usize };
    let made: Vec<usize> = (0..n).map(|_| new()).collect();
    assert!(made.iter().all(|&ctx| ctx != 0));
    made
}

fn function<F: Copy>(name: &CStr) -> F {
    contexts(0);
    let lib = std::env::var("TEST_LIBSSL").unwrap_or("libssl.so.3".into());
    let lib = std::ffi::CString::new(lib).unwrap();
    // SAFETY: loaded already; the caller names the function's type.
    unsafe {
        let lib = libc::dlopen(lib.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
        let f = libc::dlsym(lib, name.as_ptr());
        assert!(!f.is_null() && size_of::<F>() == size_of_val(&f));
        core::mem::transmute_copy(&f)
    }
}

/// Calls `what` on every object by all threads at once; gives each thread's answers.
/// They wait for each other awake: threads that are woken come one by one.
fn together(objects: &[usize], what: fn(usize, usize) -> usize) -> Vec<Vec<usize>> {
    let arrived = AtomicUsize::new(0);
    let meet = |round: usize| {
        arrived.fetch_add(1, Ordering::AcqRel);
        let mut turns = 0u32;
        while arrived.load(Ordering::Acquire) < THREADS * (round + 1) {
            turns += 1;
            if turns.is_multiple_of(1 << 11) {
                std::thread::yield_now();
            }
        }
    };
    let meet = &meet;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|me| {
                scope.spawn(move || {
                    let one = |(round, &object): (usize, &usize)| {
                        meet(round);
                        what(object, me)
                    };
                    objects.iter().enumerate().map(one).collect::<Vec<usize>>()
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

fn context_of(ctx: usize, _: usize) -> usize {
    // SAFETY: the test frees its contexts at the end.
    let found = unsafe { of(table(), ctx as *mut SslCtx) };
    found.map_or(0, |context| ptr::from_ref(context) as usize)
}

/// All threads at once find what each finds alone.
fn all_found_one(objects: &[usize]) {
    let answers = together(objects, context_of);
    for (i, &ctx) in objects.iter().enumerate() {
        let settled = context_of(ctx, 0);
        assert_ne!(settled, 0);
        for thread in &answers {
            assert_eq!(thread[i], settled, "context {i}");
        }
    }
}

#[test]
fn threads_that_meet_a_new_context_share_its_state() {
    let old = contexts(ROUNDS); // older than the index
    index(table());
    super::super::call::index(table());
    all_found_one(&old);
    let young = contexts(ROUNDS);
    all_found_one(&young);

    let free: unsafe extern "C" fn(usize) = function(c"SSL_CTX_free");
    let mut all = [old, young].concat();
    all.sort_unstable();
    // SAFETY: made above, used by nobody any more.
    all.iter().for_each(|&ctx| unsafe { free(ctx) });
    // An address that comes back is another context.
    let again = contexts(ROUNDS);
    for &ctx in &again {
        // SAFETY: live.
        let context = unsafe { of(table(), ctx as *mut SslCtx) }.unwrap();
        assert_eq!(context.chained.swap(7, Ordering::AcqRel), 0);
    }
    // SAFETY: as above.
    again.iter().for_each(|&ctx| unsafe { free(ctx) });
}

fn store(ssl: usize, me: usize) -> usize {
    let index = super::super::call::index(table()).unwrap();
    // SAFETY: the test frees its objects at the end.
    unsafe { (table().SSL_set_ex_data)(ssl as *mut Ssl, index, (me << 32) as *mut c_void) as usize }
}

#[test]
fn threads_that_meet_a_new_ssl_store_without_moving_anything() {
    table();
    while super::super::call::index(table()).is_none() {
        std::thread::yield_now(); // the other test makes it
    }
    let new: unsafe extern "C" fn(usize) -> usize = function(c"SSL_new");
    let free: unsafe extern "C" fn(usize) = function(c"SSL_free");
    let free_ctx: unsafe extern "C" fn(usize) = function(c"SSL_CTX_free");
    let ctx = contexts(1)[0];
    // SAFETY: a live context.
    let ssls: Vec<usize> = (0..ROUNDS).map(|_| unsafe { new(ctx) }).collect();
    for thread in together(&ssls, store) {
        assert!(thread.iter().all(|&stored| stored == 1));
    }
    for &ssl in &ssls {
        // Nothing that ends a stranger's connection is left behind.
        let index = super::super::call::index(table()).unwrap();
        // SAFETY: live until freed here; the context after its objects.
        unsafe {
            (table().SSL_set_ex_data)(ssl as *mut Ssl, index, ptr::null_mut());
            free(ssl);
        }
    }
    // SAFETY: as above.
    unsafe { free_ctx(ctx) };
}
