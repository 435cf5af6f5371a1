//! Rust's view of `kmod/uapi/algif_tls.h` and of the parts of `linux/tls.h`
//! and `linux/if_alg.h` that it builds on. A test compiles the C header and
//! compares every number here.

use super::CryptoInfo;
use libc::c_int;

pub const SOL_ALG: c_int = 279;
pub const SOL_TLS: c_int = 282;

pub const TLS_TX: c_int = 1;
pub const TLS_RX: c_int = 2;
pub const TLS_TX_MAX_PAYLOAD_LEN: c_int = 5;
pub const TLS_SET_RECORD_TYPE: c_int = 1;
pub const TLS_GET_RECORD_TYPE: c_int = 2;

pub const TLS_CIPHER_AES_GCM_128: u16 = 51;
pub const TLS_CIPHER_AES_GCM_256: u16 = 52;
pub const TLS_CIPHER_AES_CCM_128: u16 = 53;
pub const TLS_CIPHER_CHACHA20_POLY1305: u16 = 54;

pub const ALG_TLS_TYPE: &[u8] = b"tls";
pub const ALG_TLS_ATTACH: c_int = 0x7401;
pub const ALG_TLS_DETACH: c_int = 0x7402;
pub const ALG_TLS_CRYPTO_INFO_SIZE: usize = 56;
pub const ALG_TLS_IOC_SENDFILE: u64 = 0xc018_a701;

/// More than RX can ever have staged.
pub const STAGED_MAX: usize = 17408;

/// `struct tls12_crypto_info_aes_gcm_128`; the CCM one has the same layout.
pub const AES_128_INFO_SIZE: usize = 40;
/// `struct tls12_crypto_info_aes_gcm_256`; the ChaCha20 one has the same size.
pub const INFO_256_SIZE: usize = 56;

#[repr(C)]
pub struct SockaddrAlg {
    pub family: u16,
    pub kind: [u8; 14],
    pub feat: u32,
    pub mask: u32,
    pub name: [u8; 64],
}

#[repr(C)]
pub struct Attach {
    pub size: u32,
    pub fd: i32,
    pub flags: u32,
    pub tx_max: u16,
    pub reserved: u16,
    pub tx: CryptoInfo,
    pub rx: CryptoInfo,
}

#[repr(C)]
pub struct Detach {
    pub size: u32,
    pub dir: u32,
    pub staged: u64,
    pub staged_len: u32,
    pub reserved: u32,
    pub rec_seq: [u8; 8],
    pub nonce: [u8; 8],
}

#[repr(C)]
pub struct Sendfile {
    pub fd: i32,
    pub flags: u32,
    pub offset: u64,
    pub count: u64,
}
