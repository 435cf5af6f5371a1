//! Follows the records of a byte stream, however it is cut into pieces.
//!
//! One `Stream` watches one of the four places that bytes pass on their way.
//! It owns a copy of the last whole record while it is told to keep one (the
//! proof opens it later); the two buffers for that are allocated when first
//! needed, grow to the largest record seen, and are reused. Without a copy to
//! keep, feeding allocates nothing.

use super::header::{self, CHANGE_CIPHER_SPEC};

pub struct Stream {
    head: [u8; header::LEN],
    have: u8,
    kind: u8,
    left: usize,
    broken: bool,
    records: u64,
    since_ccs: u64,
    /// The record that is passing, if its copy is complete so far.
    partial: Option<Vec<u8>>,
    /// The last whole record, if a copy was kept.
    whole: Option<Vec<u8>>,
    /// A buffer out of use.
    spare: Vec<u8>,
}

impl Stream {
    pub const fn new() -> Stream {
        Stream {
            head: [0; header::LEN],
            have: 0,
            kind: 0,
            left: 0,
            broken: false,
            records: 0,
            since_ccs: 0,
            partial: None,
            whole: None,
            spare: Vec::new(),
        }
    }

    /// Takes the next bytes. With `keep`, records that begin in this call are
    /// copied; one that is already passing without a copy stays without.
    pub fn feed(&mut self, bytes: &[u8], keep: bool) {
        let mut rest = bytes;
        while !self.broken && !rest.is_empty() {
            rest = self.step(rest, keep);
        }
    }

    fn step<'b>(&mut self, bytes: &'b [u8], keep: bool) -> &'b [u8] {
        if usize::from(self.have) < header::LEN {
            let Some((&byte, tail)) = bytes.split_first() else {
                return &[];
            };
            if let Some(slot) = self.head.get_mut(usize::from(self.have)) {
                *slot = byte;
            }
            self.have += 1;
            if usize::from(self.have) == header::LEN {
                self.begin(keep);
            }
            return tail;
        }
        let (body, tail) = bytes.split_at_checked(self.left).unwrap_or((bytes, &[]));
        if let Some(copy) = &mut self.partial {
            copy.extend_from_slice(body); // room was reserved with the header
        }
        self.left -= body.len();
        if self.left == 0 {
            self.end();
        }
        tail
    }

    fn begin(&mut self, keep: bool) {
        let Ok(header) = header::parse(&self.head) else {
            self.broken = true;
            self.forget();
            return;
        };
        self.kind = header.kind;
        self.left = usize::from(header.length);
        self.partial = None;
        if keep {
            let mut copy = core::mem::take(&mut self.spare);
            copy.clear();
            // Out of memory: this record is not kept, nothing else happens.
            if copy.try_reserve_exact(header::LEN + self.left).is_ok() {
                copy.extend_from_slice(&self.head);
                self.partial = Some(copy);
            }
        }
        if self.left == 0 {
            self.end();
        }
    }

    fn end(&mut self) {
        self.have = 0;
        self.records += 1;
        self.since_ccs = if self.kind == CHANGE_CIPHER_SPEC {
            0
        } else {
            self.since_ccs + 1
        };
        // An older copy must not pass for this record's.
        if let Some(old) = core::mem::replace(&mut self.whole, self.partial.take()) {
            self.spare = old;
        }
    }

    /// Between two records, and every one so far looked like one.
    pub const fn at_border(&self) -> bool {
        self.have == 0 && !self.broken
    }

    /// Whole records.
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Whole records after the last ChangeCipherSpec, or since the beginning.
    pub const fn records_since_ccs(&self) -> u64 {
        self.since_ccs
    }

    /// The last whole record with its header, if it was kept.
    pub fn last(&self) -> Option<&[u8]> {
        self.whole.as_deref()
    }

    /// These are not TLS records; nothing further is followed.
    pub const fn broken(&self) -> bool {
        self.broken
    }

    /// Frees the copies. A record that is passing is not kept either.
    pub fn forget(&mut self) {
        self.partial = None;
        self.whole = None;
        self.spare = Vec::new();
    }
}

impl Default for Stream {
    fn default() -> Self {
        Stream::new()
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

    fn record(kind: u8, len: usize, fill: u8) -> Vec<u8> {
        let header = header::Header {
            kind,
            version: 0x0303,
            length: len as u16,
        };
        let mut r = header.bytes().to_vec();
        r.resize(header::LEN + len, fill);
        r
    }

    #[test]
    fn every_way_to_cut_gives_the_same_counts() {
        let records = [
            record(22, 70, 1),
            record(20, 1, 1),
            record(22, 40, 2),
            record(23, 0, 0),
            record(23, 300, 3),
        ];
        let bytes = records.concat();
        for cut in 1..=bytes.len() {
            let mut s = Stream::new();
            for chunk in bytes.chunks(cut) {
                s.feed(chunk, true);
            }
            assert_eq!(
                (s.records(), s.records_since_ccs()),
                (5, 3),
                "chunks of {cut}"
            );
            assert_eq!(s.last(), Some(&records[4][..]));
            assert_eq!((s.at_border(), s.broken()), (true, false));
        }
    }

    #[test]
    fn last_is_the_last_whole_record_or_nothing() {
        let (a, b) = (record(22, 10, 1), record(22, 20, 2));
        let mut s = Stream::new();
        s.feed(&a, true);
        s.feed(&b[..12], true);
        assert_eq!(s.last(), Some(&a[..]), "b is not whole");
        assert!(!s.at_border());
        s.feed(&b[12..], true);
        assert_eq!(s.last(), Some(&b[..]));
        s.feed(&a, false);
        assert_eq!(s.last(), None, "an older record must not pass for the last");
        s.feed(&b[..7], false);
        s.feed(&b[7..], true);
        assert_eq!(s.last(), None, "its beginning was not kept");
        s.feed(&a, true);
        assert_eq!(s.last(), Some(&a[..]));
        s.feed(&b[..7], true);
        s.forget();
        s.feed(&b[7..], true);
        assert_eq!(s.last(), None);
        assert_eq!(s.records(), 6);
    }

    #[test]
    fn what_is_not_tls_breaks_it_for_good() {
        let mut s = Stream::new();
        s.feed(&record(22, 5, 0), true);
        s.feed(b"GET / HTTP/1.1\r\n", true);
        assert!(s.broken() && !s.at_border());
        assert_eq!(s.last(), None);
        s.feed(&record(22, 5, 0), true);
        assert!(s.broken());
        assert_eq!(s.records(), 1);
    }
}
