//! Lines of the keylog callback: `LABEL <client random> <secret>`.
//!
//! Parsing allocates nothing and keeps nothing: the secret is decoded straight
//! into the wiped value that the caller gets.

use super::secret::Traffic;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Label {
    ClientHandshake,
    ServerHandshake,
    /// Generation, or `None` where OpenSSL reports a KeyUpdate: from 3.0 on it
    /// writes a literal `N` for every generation after 0.
    ClientTraffic(Option<u32>),
    ServerTraffic(Option<u32>),
    /// `CLIENT_RANDOM`: the master secret of TLS 1.2.
    Master12,
    /// Something else about the same handshake; its secret is not decoded.
    Other,
}

/// `None` if this is no keylog line at all or its secret has no length that
/// its label can have.
pub fn parse(line: &[u8]) -> Option<(Label, [u8; 32], Traffic)> {
    let mut fields = line.trim_ascii_end().split(|&b| b == b' ');
    let (name, random, secret) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || name.is_empty() {
        return None;
    }
    let label = label(name);
    let mut client_random = [0; 32];
    decode(random, &mut client_random)?;
    let len = match (label, secret.len() / 2) {
        (Label::Other, _) => return Some((label, client_random, Traffic::empty())),
        (Label::Master12, 48) => 48,
        (Label::Master12, _) => return None,
        (_, len @ (32 | 48)) => len,
        _ => return None,
    };
    let secret = Traffic::build(len, |out| decode(secret, out))?;
    Some((label, client_random, secret))
}

fn label(name: &[u8]) -> Label {
    match name {
        b"CLIENT_HANDSHAKE_TRAFFIC_SECRET" => Label::ClientHandshake,
        b"SERVER_HANDSHAKE_TRAFFIC_SECRET" => Label::ServerHandshake,
        b"CLIENT_RANDOM" => Label::Master12,
        _ => {
            if let Some(n) = name.strip_prefix(b"CLIENT_TRAFFIC_SECRET_") {
                generation(n).map_or(Label::Other, Label::ClientTraffic)
            } else if let Some(n) = name.strip_prefix(b"SERVER_TRAFFIC_SECRET_") {
                generation(n).map_or(Label::Other, Label::ServerTraffic)
            } else {
                Label::Other
            }
        }
    }
}

fn generation(n: &[u8]) -> Option<Option<u32>> {
    if n == b"N" {
        return Some(None);
    }
    if !n.iter().all(u8::is_ascii_digit) {
        return None;
    }
    core::str::from_utf8(n).ok()?.parse().ok().map(Some)
}

/// Exactly as many hexadecimal digits as `out` needs.
fn decode(hex: &[u8], out: &mut [u8]) -> Option<()> {
    if hex.len() != out.len() * 2 {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(hex.chunks_exact(2)) {
        let &[high, low] = pair else { return None };
        *byte = digit(high)? << 4 | digit(low)?;
    }
    Some(())
}

fn digit(c: u8) -> Option<u8> {
    match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
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

    const RANDOM: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

    fn line(label: &str, secret_bytes: usize) -> String {
        format!("{label} {RANDOM} {}", "Ab".repeat(secret_bytes))
    }

    #[test]
    fn labels() {
        for (name, len, label) in [
            (
                "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
                32,
                Label::ClientHandshake,
            ),
            (
                "SERVER_HANDSHAKE_TRAFFIC_SECRET",
                48,
                Label::ServerHandshake,
            ),
            ("CLIENT_TRAFFIC_SECRET_0", 32, Label::ClientTraffic(Some(0))),
            (
                "SERVER_TRAFFIC_SECRET_17",
                48,
                Label::ServerTraffic(Some(17)),
            ),
            ("CLIENT_TRAFFIC_SECRET_N", 32, Label::ClientTraffic(None)),
            ("SERVER_TRAFFIC_SECRET_N", 32, Label::ServerTraffic(None)),
            ("CLIENT_RANDOM", 48, Label::Master12),
        ] {
            for end in ["", "\n", "\r\n"] {
                let Some((got, random, secret)) = parse((line(name, len) + end).as_bytes()) else {
                    panic!("{name} was not understood")
                };
                assert_eq!(got, label);
                assert_eq!(random, core::array::from_fn(|i| i as u8));
                assert_eq!(secret.as_slice(), vec![0xab; len]);
            }
        }
    }

    #[test]
    fn other_labels_give_no_secret() {
        for name in [
            "EXPORTER_SECRET",
            "EARLY_EXPORTER_SECRET",
            "CLIENT_EARLY_TRAFFIC_SECRET",
            "CLIENT_TRAFFIC_SECRET_",
            "CLIENT_TRAFFIC_SECRET_-1",
            "CLIENT_TRAFFIC_SECRET_99999999999",
        ] {
            match parse(line(name, 32).as_bytes()) {
                Some((Label::Other, _, secret)) => assert!(secret.as_slice().is_empty()),
                _ => panic!("{name}"),
            }
        }
    }

    #[test]
    fn malformed_lines() {
        let good = line("CLIENT_TRAFFIC_SECRET_0", 32);
        assert!(parse(good.as_bytes()).is_some());
        for bad in [
            String::new(),
            "# a comment".into(),
            "RSA 0011223344556677 00".into(),
            good[..good.len() - 1].into(),
            good.clone() + "00",
            good.clone() + " x",
            good.replace("Ab", "xy"),
            good.replacen(' ', "  ", 1),
            line("CLIENT_RANDOM", 32),
            line("CLIENT_TRAFFIC_SECRET_0", 64),
            line("CLIENT_TRAFFIC_SECRET_0", 0),
            format!(
                "CLIENT_TRAFFIC_SECRET_0 {} {}",
                &RANDOM[2..],
                "ab".repeat(32)
            ),
            format!(" {RANDOM} {}", "ab".repeat(32)),
        ] {
            assert!(parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
