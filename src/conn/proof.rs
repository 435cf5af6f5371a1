//! The proof: does a key open the record that OpenSSL itself sealed or accepted last?

use super::rx::{HANDSHAKE, KEY_UPDATE};
use crate::keys::{self, Suite, TrafficKeys, Version};
use crate::openssl::{ask::Live, ssl::Table};
use crate::planted;
use crate::reason::Reason;
use crate::record::cipher::{PROOF_SPAN, RecordCipher};
use crate::record::stream::Stream;

pub(super) fn suite_of(live: &Live) -> Result<Suite, Reason> {
    let version = Version::from_wire(live.version() as u16).ok_or(Reason::NotTls)?;
    // SAFETY: the object is alive; the cipher belongs to the library.
    let cipher = unsafe { (live.table.SSL_get_current_cipher)(live.ptr()) };
    if cipher.is_null() {
        return Err(Reason::UnknownCipher);
    }
    // SAFETY: as above.
    let id = unsafe { (live.table.SSL_CIPHER_get_id)(cipher) };
    Suite::from_id(version, id as u16).ok_or(Reason::UnknownCipher)
}

pub(super) fn keys12(live: &Live, suite: Suite) -> Option<keys::Pair> {
    let (table, s) = (live.table, live.ptr());
    let mut master = keys::Secret::<48>::zero();
    let (mut client, mut server) = ([0u8; 32], [0u8; 32]);
    // SAFETY: the buffers are as long as said; the object and its session are alive.
    unsafe {
        let session = (table.SSL_get_session)(s);
        if session.is_null()
            || (table.SSL_SESSION_get_master_key)(session, master.bytes_mut().as_mut_ptr(), 48)
                != 48
            || (table.SSL_get_client_random)(s, client.as_mut_ptr(), 32) != 32
            || (table.SSL_get_server_random)(s, server.as_mut_ptr(), 32) != 32
        {
            return None;
        }
    }
    keys::traffic::tls12(table.crypto, suite, master.bytes(), &client, &server)
}

pub(super) struct Proved {
    pub seq: u64,
    pub kind: u8,
    pub first: Option<u8>,
    pub padding: usize,
    pub explicit: [u8; 8],
}

impl Proved {
    /// Nothing follows this record under its key.
    pub fn ends_the_key(&self) -> bool {
        self.kind == HANDSHAKE && self.first == Some(KEY_UPDATE)
    }
}

/// Opens the last whole record of the trace. Its number follows from how many
/// records went by, less those of earlier keys, of which there are few.
pub(super) fn prove(
    table: &'static Table,
    keys: &TrafficKeys,
    trace: &mut Stream,
    generation: u32,
    epoch: u64,
) -> Option<Proved> {
    let suite = keys.suite();
    let mut cipher = RecordCipher::new(table.crypto, keys)?;
    let record = trace.last()?;
    // The wipe at the end costs an instruction per byte, and handshake records are short.
    let mut out = super::rx::sized(Vec::new(), record.len())?;
    let mut attempt = |seq: u64| {
        let opened = cipher.open(planted::seq(seq), record, &mut out).ok()?;
        Some(Proved {
            seq,
            kind: opened.kind,
            first: out.first().copied().filter(|_| opened.len != 0),
            padding: opened.padding,
            explicit: opened.explicit,
        })
    };
    let proved = if suite.version == Version::Tls12 {
        attempt(trace.records_since_ccs().checked_sub(1)?)
    } else if generation == 0 {
        let newest = trace.records().checked_sub(1)?;
        let likely = epoch
            .checked_sub(1)
            .and_then(|before| newest.checked_sub(before));
        let others = (0..PROOF_SPAN).map_while(|back| newest.checked_sub(back));
        likely.into_iter().chain(others).find_map(&mut attempt)
    } else {
        (0..PROOF_SPAN).find_map(&mut attempt)
    };
    zeroize::Zeroize::zeroize(&mut out);
    proved
}
