//! Bytes that must not outlive their use.
//!
//! Both types hold their bytes inline, wipe them on drop, and can neither be
//! cloned nor printed. A move, such as a return by value, may leave a copy in a
//! stack frame that nobody wipes: what lives long is filled in place, or moved
//! once; what is short-lived is passed by reference.

use zeroize::Zeroize;

pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    pub const fn zero() -> Self {
        Secret([0; N])
    }

    pub const fn bytes(&self) -> &[u8; N] {
        &self.0
    }

    pub const fn bytes_mut(&mut self) -> &mut [u8; N] {
        &mut self.0
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// A secret as long as a hash (or as a TLS 1.2 master secret): 48 bytes at most.
pub struct Traffic {
    bytes: Secret<{ Traffic::MAX }>,
    len: usize,
}

impl Traffic {
    pub const MAX: usize = 48;

    pub const fn empty() -> Traffic {
        Traffic {
            bytes: Secret::zero(),
            len: 0,
        }
    }

    pub fn from_slice(from: &[u8]) -> Option<Traffic> {
        let mut new = Traffic::empty();
        new.bytes
            .bytes_mut()
            .get_mut(..from.len())?
            .copy_from_slice(from);
        new.len = from.len();
        Some(new)
    }

    /// `fill` writes `len` bytes, or says that it could not.
    pub fn build(len: usize, fill: impl FnOnce(&mut [u8]) -> Option<()>) -> Option<Traffic> {
        let mut new = Traffic::empty();
        fill(new.bytes.bytes_mut().get_mut(..len)?)?;
        new.len = len;
        Some(new)
    }

    pub fn as_slice(&self) -> &[u8] {
        self.bytes.bytes().get(..self.len).unwrap_or_default()
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
    use core::mem::ManuallyDrop;

    #[test]
    fn dropping_wipes() {
        let mut secret = ManuallyDrop::new(Secret([0xaau8; 32]));
        // SAFETY: dropped once; the bytes stay readable, they are plain data.
        unsafe { ManuallyDrop::drop(&mut secret) };
        assert_eq!(secret.0, [0; 32]);
        let Some(traffic) = Traffic::from_slice(&[0xbb; 48]) else {
            panic!("48 fit")
        };
        let mut traffic = ManuallyDrop::new(traffic);
        // SAFETY: as above.
        unsafe { ManuallyDrop::drop(&mut traffic) };
        assert_eq!(traffic.bytes.0, [0; 48]);
    }

    #[test]
    fn lengths() {
        assert!(Traffic::from_slice(&[0; 49]).is_none());
        let Some(t) = Traffic::from_slice(b"abc") else {
            panic!("3 fit")
        };
        assert_eq!(t.as_slice(), b"abc");
        assert!(Traffic::empty().as_slice().is_empty());
    }
}
