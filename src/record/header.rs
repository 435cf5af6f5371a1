//! The five bytes in front of every record.

pub const LEN: usize = 5;

/// RFC 5246 §6.2.3: payload plus 2,048 bytes of expansion. TLS 1.3 allows 256.
pub const MAX_BODY: usize = MAX_PAYLOAD + 2048;
pub const MAX_PAYLOAD: usize = 1 << 14;

pub const CHANGE_CIPHER_SPEC: u8 = 20;
pub const ALERT: u8 = 21;
pub const HANDSHAKE: u8 = 22;
pub const APPLICATION_DATA: u8 = 23;
pub const HEARTBEAT: u8 = 24;

/// `legacy_record_version` of both TLS 1.2 and TLS 1.3.
pub const LEGACY_VERSION: u16 = 0x0303;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    pub kind: u8,
    pub version: u16,
    pub length: u16,
}

/// Why these bytes do not begin a TLS record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadHeader {
    Kind,
    Version,
    Length,
}

/// Accepts what any record of SSL 3.0 to TLS 1.3 may look like, encrypted or
/// not: a first ClientHello says 3.1, an alert before ServerHello 3.0.
pub const fn parse(bytes: &[u8; LEN]) -> Result<Header, BadHeader> {
    let &[kind, major, minor, high, low] = bytes;
    let version = u16::from_be_bytes([major, minor]);
    let length = u16::from_be_bytes([high, low]);
    if kind < CHANGE_CIPHER_SPEC || kind > HEARTBEAT {
        return Err(BadHeader::Kind);
    }
    if major != 3 || minor > 4 {
        return Err(BadHeader::Version);
    }
    if length as usize > MAX_BODY {
        return Err(BadHeader::Length);
    }
    Ok(Header {
        kind,
        version,
        length,
    })
}

impl Header {
    pub const fn bytes(self) -> [u8; LEN] {
        let [major, minor] = self.version.to_be_bytes();
        let [high, low] = self.length.to_be_bytes();
        [self.kind, major, minor, high, low]
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

    #[test]
    fn round_trip_and_limits() {
        let header = Header {
            kind: 23,
            version: 0x0303,
            length: MAX_BODY as u16,
        };
        assert_eq!(parse(&header.bytes()), Ok(header));
        let too_long = Header {
            length: MAX_BODY as u16 + 1,
            ..header
        };
        assert_eq!(parse(&too_long.bytes()), Err(BadHeader::Length));
        for kind in [0, 19, 25, 0x80, 255] {
            assert_eq!(
                parse(&Header { kind, ..header }.bytes()),
                Err(BadHeader::Kind)
            );
        }
        for version in [0x0002, 0x0203, 0x0305, 0xfeff] {
            assert_eq!(
                parse(&Header { version, ..header }.bytes()),
                Err(BadHeader::Version)
            );
        }
        assert_eq!(parse(b"HTTP/"), Err(BadHeader::Kind));
    }
}
