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

#[cfg(test)]
#[allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may fail loudly"
)]
mod tests {
    use super::*;
    use core::mem::offset_of;
    use std::process::Command;

    /// C expression, and what Rust believes it to be.
    const BELIEFS: &[(&str, usize)] = &[
        ("SOL_TLS", SOL_TLS as usize),
        ("SOL_ALG", SOL_ALG as usize),
        ("TLS_TX", TLS_TX as usize),
        ("TLS_RX", TLS_RX as usize),
        ("TLS_TX_MAX_PAYLOAD_LEN", TLS_TX_MAX_PAYLOAD_LEN as usize),
        ("TLS_SET_RECORD_TYPE", TLS_SET_RECORD_TYPE as usize),
        ("TLS_GET_RECORD_TYPE", TLS_GET_RECORD_TYPE as usize),
        ("TLS_1_2_VERSION", 0x0303),
        ("TLS_1_3_VERSION", 0x0304),
        ("TLS_CIPHER_AES_GCM_128", TLS_CIPHER_AES_GCM_128 as usize),
        ("TLS_CIPHER_AES_GCM_256", TLS_CIPHER_AES_GCM_256 as usize),
        ("TLS_CIPHER_AES_CCM_128", TLS_CIPHER_AES_CCM_128 as usize),
        (
            "TLS_CIPHER_CHACHA20_POLY1305",
            TLS_CIPHER_CHACHA20_POLY1305 as usize,
        ),
        ("ALG_TLS_ATTACH", ALG_TLS_ATTACH as usize),
        ("ALG_TLS_DETACH", ALG_TLS_DETACH as usize),
        ("ALG_TLS_CRYPTO_INFO_SIZE", ALG_TLS_CRYPTO_INFO_SIZE),
        ("ALG_TLS_IOC_SENDFILE", ALG_TLS_IOC_SENDFILE as usize),
        ("sizeof(ALG_TLS_TYPE) - 1", ALG_TLS_TYPE.len()),
        (
            "sizeof(struct tls12_crypto_info_aes_gcm_128)",
            AES_128_INFO_SIZE,
        ),
        (
            "sizeof(struct tls12_crypto_info_aes_ccm_128)",
            AES_128_INFO_SIZE,
        ),
        (
            "sizeof(struct tls12_crypto_info_aes_gcm_256)",
            INFO_256_SIZE,
        ),
        (
            "sizeof(struct tls12_crypto_info_chacha20_poly1305)",
            INFO_256_SIZE,
        ),
        // iv, key, salt, rec_seq, as `TrafficKeys::crypto_info` writes them.
        (
            "offsetof(struct tls12_crypto_info_aes_gcm_128, info.cipher_type)",
            2,
        ),
        ("offsetof(struct tls12_crypto_info_aes_gcm_128, iv)", 4),
        ("offsetof(struct tls12_crypto_info_aes_gcm_128, key)", 4 + 8),
        (
            "offsetof(struct tls12_crypto_info_aes_gcm_128, salt)",
            4 + 8 + 16,
        ),
        (
            "offsetof(struct tls12_crypto_info_aes_gcm_128, rec_seq)",
            4 + 8 + 16 + 4,
        ),
        (
            "offsetof(struct tls12_crypto_info_aes_ccm_128, salt)",
            4 + 8 + 16,
        ),
        (
            "offsetof(struct tls12_crypto_info_aes_gcm_256, salt)",
            4 + 8 + 32,
        ),
        (
            "offsetof(struct tls12_crypto_info_aes_gcm_256, rec_seq)",
            4 + 8 + 32 + 4,
        ),
        (
            "offsetof(struct tls12_crypto_info_chacha20_poly1305, key)",
            4 + 12,
        ),
        (
            "offsetof(struct tls12_crypto_info_chacha20_poly1305, rec_seq)",
            4 + 12 + 32,
        ),
        ("sizeof(struct sockaddr_alg)", size_of::<SockaddrAlg>()),
        (
            "offsetof(struct sockaddr_alg, salg_type)",
            offset_of!(SockaddrAlg, kind),
        ),
        (
            "offsetof(struct sockaddr_alg, salg_feat)",
            offset_of!(SockaddrAlg, feat),
        ),
        (
            "offsetof(struct sockaddr_alg, salg_mask)",
            offset_of!(SockaddrAlg, mask),
        ),
        (
            "offsetof(struct sockaddr_alg, salg_name)",
            offset_of!(SockaddrAlg, name),
        ),
        ("sizeof(struct alg_tls_attach)", size_of::<Attach>()),
        (
            "offsetof(struct alg_tls_attach, size)",
            offset_of!(Attach, size),
        ),
        (
            "offsetof(struct alg_tls_attach, fd)",
            offset_of!(Attach, fd),
        ),
        (
            "offsetof(struct alg_tls_attach, flags)",
            offset_of!(Attach, flags),
        ),
        (
            "offsetof(struct alg_tls_attach, tx_max)",
            offset_of!(Attach, tx_max),
        ),
        (
            "offsetof(struct alg_tls_attach, reserved)",
            offset_of!(Attach, reserved),
        ),
        (
            "offsetof(struct alg_tls_attach, tx)",
            offset_of!(Attach, tx),
        ),
        (
            "offsetof(struct alg_tls_attach, rx)",
            offset_of!(Attach, rx),
        ),
        ("sizeof(struct alg_tls_detach)", size_of::<Detach>()),
        (
            "offsetof(struct alg_tls_detach, size)",
            offset_of!(Detach, size),
        ),
        (
            "offsetof(struct alg_tls_detach, dir)",
            offset_of!(Detach, dir),
        ),
        (
            "offsetof(struct alg_tls_detach, staged)",
            offset_of!(Detach, staged),
        ),
        (
            "offsetof(struct alg_tls_detach, staged_len)",
            offset_of!(Detach, staged_len),
        ),
        (
            "offsetof(struct alg_tls_detach, reserved)",
            offset_of!(Detach, reserved),
        ),
        (
            "offsetof(struct alg_tls_detach, rec_seq)",
            offset_of!(Detach, rec_seq),
        ),
        (
            "offsetof(struct alg_tls_detach, nonce)",
            offset_of!(Detach, nonce),
        ),
        ("sizeof(struct alg_tls_sendfile)", size_of::<Sendfile>()),
        (
            "offsetof(struct alg_tls_sendfile, fd)",
            offset_of!(Sendfile, fd),
        ),
        (
            "offsetof(struct alg_tls_sendfile, flags)",
            offset_of!(Sendfile, flags),
        ),
        (
            "offsetof(struct alg_tls_sendfile, offset)",
            offset_of!(Sendfile, offset),
        ),
        (
            "offsetof(struct alg_tls_sendfile, count)",
            offset_of!(Sendfile, count),
        ),
        ("CMSG_SPACE(1)", crate::backend::alg::RECORD_TYPE_SPACE),
        ("CMSG_LEN(1)", crate::backend::alg::RECORD_TYPE_LEN),
    ];

    #[test]
    fn the_c_header_says_the_same() {
        let mut c = String::from(
            "#include <stddef.h>\n#include <stdio.h>\n#include <sys/socket.h>\n\
             #include <sys/ioctl.h>\n#include <linux/if_alg.h>\n#include \"algif_tls.h\"\n\
             #ifndef SOL_TLS\n#define SOL_TLS 282\n#endif\n\
             #ifndef SOL_ALG\n#define SOL_ALG 279\n#endif\n\
             int main(void)\n{\n",
        );
        for (expression, _) in BELIEFS {
            c += &format!("\tprintf(\"%zu\\n\", (size_t)({expression}));\n");
        }
        c += "\tputs(ALG_TLS_TYPE);\n\treturn 0;\n}\n";
        let dir = std::env::temp_dir().join(format!("ktlsshim-uapi-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let (source, program) = (dir.join("uapi.c"), dir.join("uapi"));
        std::fs::write(&source, c).unwrap();
        let cc = Command::new("cc")
            .args(["-Wall", "-Wextra", "-Werror", "-I"])
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/kmod/uapi"))
            .arg("-o")
            .args([&program, &source])
            .output()
            .unwrap();
        assert!(
            cc.status.success(),
            "{}",
            String::from_utf8_lossy(&cc.stderr)
        );
        let output = Command::new(&program).output().unwrap();
        let _ = std::fs::remove_dir_all(&dir);
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), BELIEFS.len() + 1);
        for ((expression, belief), line) in BELIEFS.iter().zip(&lines) {
            assert_eq!(*line, belief.to_string(), "{expression}");
        }
        assert_eq!(lines[BELIEFS.len()].as_bytes(), ALG_TLS_TYPE);
    }
}
