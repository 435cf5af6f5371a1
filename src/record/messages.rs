//! Follows handshake messages through the payloads of type-22 records.
//!
//! A message may span records and a record may hold several, so keys change
//! with messages, never with records. Only headers are looked at and nothing
//! is kept but five bytes.

pub const HELLO_REQUEST: u8 = 0;
pub const CLIENT_HELLO: u8 = 1;
pub const NEW_SESSION_TICKET: u8 = 4;
pub const FINISHED: u8 = 20;
pub const KEY_UPDATE: u8 = 24;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Message {
    pub kind: u8,
    /// Of the body, without the four bytes of header.
    pub length: u32,
    /// First byte of the body, e.g. KeyUpdate's `request_update`.
    pub first: Option<u8>,
}

#[derive(Default)]
pub struct Messages {
    head: [u8; 4],
    have: u8,
    first: Option<u8>,
    left: u32,
}

impl Messages {
    pub const fn new() -> Messages {
        Messages {
            head: [0; 4],
            have: 0,
            first: None,
            left: 0,
        }
    }

    /// Takes the payload of one record and calls `each` for every message that
    /// it completes, in order.
    pub fn feed(&mut self, payload: &[u8], mut each: impl FnMut(Message)) {
        let mut rest = payload;
        while let Some((&byte, tail)) = rest.split_first() {
            if let Some(slot) = self.head.get_mut(usize::from(self.have)) {
                *slot = byte;
                self.have += 1;
                rest = tail;
                if self.have == 4 {
                    self.left = self.length();
                    self.first = None;
                }
            } else {
                if self.left == self.length() {
                    self.first = Some(byte);
                }
                let take = rest.len().min(self.left as usize);
                self.left -= take as u32; // take ≤ left
                rest = rest.get(take..).unwrap_or_default();
            }
            if self.have == 4 && self.left == 0 {
                let [kind, ..] = self.head;
                self.have = 0;
                each(Message {
                    kind,
                    length: self.length(),
                    first: self.first,
                });
            }
        }
    }

    /// Whether a message has begun and not ended.
    pub const fn incomplete(&self) -> bool {
        self.have != 0
    }

    const fn length(&self) -> u32 {
        let [_, a, b, c] = self.head;
        u32::from_be_bytes([0, a, b, c])
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

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut m = vec![kind];
        m.extend_from_slice(&(body.len() as u32).to_be_bytes()[1..]);
        m.extend_from_slice(body);
        m
    }

    #[test]
    fn every_way_to_cut_gives_the_same_messages() {
        let parts = [
            (HELLO_REQUEST, vec![]),
            (KEY_UPDATE, vec![1]),
            (NEW_SESSION_TICKET, vec![7; 300]),
            (HELLO_REQUEST, vec![]),
            (FINISHED, vec![9; 32]),
        ];
        let bytes: Vec<u8> = parts.iter().flat_map(|(k, b)| message(*k, b)).collect();
        let expected: Vec<Message> = parts
            .iter()
            .map(|(k, b)| Message {
                kind: *k,
                length: b.len() as u32,
                first: b.first().copied(),
            })
            .collect();
        for cut in 1..=bytes.len() {
            let (mut follower, mut got) = (Messages::new(), Vec::new());
            for chunk in bytes.chunks(cut) {
                follower.feed(chunk, |m| got.push(m));
            }
            assert_eq!(got, expected, "chunks of {cut}");
            assert!(!follower.incomplete());
        }
    }

    #[test]
    fn incomplete_until_the_last_byte() {
        let bytes = message(KEY_UPDATE, &[0]);
        let mut follower = Messages::new();
        assert!(!follower.incomplete());
        for (i, byte) in bytes.iter().enumerate() {
            let mut seen = 0;
            follower.feed(&[*byte], |_| seen += 1);
            let last = i + 1 == bytes.len();
            assert_eq!((seen == 1, follower.incomplete()), (last, !last));
        }
    }
}
