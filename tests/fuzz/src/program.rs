// SPDX-License-Identifier: MIT OR Apache-2.0
//! A sequence of calls as data: what a seed becomes, what is shrunk, printed and replayed. One line of
//! JSON for the set-up, then one for each step. Steps name slots (ops, connections), not descriptors;
//! a step whose slot is empty does nothing, so that any subset of a sequence is a sequence.

use crate::rng::Rng;
use ktlsshim_tests::{Cipher, Keys, Version};
use serde::{Deserialize, Serialize};

pub const OPS: u8 = 3;
pub const CONNS: u8 = 2;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    pub seed: u64,
    pub tls13: bool,
    /// Index into `CIPHERS`
    pub cipher: u8,
    /// SO_SNDBUF of our TCP socket; 0 leaves it alone
    pub sndbuf: u32,
    /// SO_RCVBUF of our TCP socket: what has arrived is then unknown to the model
    pub rcvbuf: u32,
    pub mss: u32,
    pub nonblock: bool,
    /// Blocking calls that find nothing give up at once by SO_RCVTIMEO
    pub short: bool,
}

pub const CIPHERS: [Cipher; 4] = [
    Cipher::Aes128Gcm,
    Cipher::Aes256Gcm,
    Cipher::ChaCha20,
    Cipher::Aes128Ccm,
];

impl Setup {
    pub fn version(&self) -> Version {
        if self.tls13 {
            Version::Tls13
        } else {
            Version::Tls12
        }
    }

    pub fn suite(&self) -> Cipher {
        CIPHERS[usize::from(self.cipher) % 4]
    }

    /// Key material number `id` of this sequence, different for each of them.
    pub fn keys(&self, cipher: Cipher, id: u32, seq: u64) -> Keys {
        let mut rng = Rng::new(self.seed ^ (u64::from(id) << 32) ^ 0x6b65_7973);
        let mut bytes = |n: usize| (0..n).map(|_| rng.draw() as u8).collect::<Vec<_>>();
        Keys {
            version: self.version(),
            cipher,
            key: bytes(cipher.key_len()),
            iv: bytes(12).try_into().expect("twelve bytes"),
            seq,
        }
    }
}

/// Which keys a call brings.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Pick {
    /// None: that direction is left alone
    None,
    /// Those of the direction as they are now, number and nonce included
    Continue,
    /// What the peer announced (receiving), else fresh ones
    Next(u32),
    /// New ones; their number begins at the second value
    Fresh(u32, u64),
    /// The sending key again, so many records back
    Again(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Dir {
    Tx,
    Rx,
}

impl From<Dir> for ktlsshim_tests::Dir {
    fn from(dir: Dir) -> Self {
        match dir {
            Dir::Tx => Self::Tx,
            Dir::Rx => Self::Rx,
        }
    }
}

/// How a record that the peer seals is spoilt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Damage {
    None,
    Tag,
    Type,
    Version,
    TooLong,
    TooShort,
    /// By one byte
    OneTooLong,
    OneTooShort,
    /// TLS 1.3: nothing but zeros inside
    NoType,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum PeerDo {
    Seal {
        kind: u8,
        len: u32,
        pad: u8,
        damage: Damage,
    },
    /// A handshake record with these message bytes cut at will: KeyUpdate among them if `true`
    Handshake {
        len: u32,
        update: bool,
        split: u8,
        rekey: Option<u32>,
    },
    CloseNotify,
    Ccs {
        rekey: Option<u32>,
    },
    /// So many bytes of what was sealed go out; 0 is all
    Push(u32),
    /// Bytes that are no record
    Junk(u32),
    Urgent,
    Fin,
    Rst,
    Pause,
    Resume,
}

/// What a second thread meets (`together.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Meet {
    /// A reader sleeps until this happens
    Reader(Event),
    /// A poller of the op (true) or of the TCP socket sleeps until this happens
    Poller(bool, Event),
    /// A writer sleeps for room until the peer reads
    Writer {
        len: u32,
        file: bool,
    },
    /// Polls for room: of the op (true) or the TCP socket
    Room(bool),
    Writers {
        each: u32,
        count: u8,
        rekeys: u8,
    },
    Readers {
        count: u8,
        len: u32,
    },
    Duplex {
        len: u32,
    },
    /// The direction is detached while somebody sends
    DetachWriter {
        each: u32,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub enum Event {
    Record(u32),
    /// The same in two pieces with a pause between
    Pieces(u32),
    Control,
    Fin,
    Rst,
    Detach,
    Shutdown,
    BadTag,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Step {
    Accept(u8),
    CloseOp(u8),
    CloseTcp(u8),
    CloseParent,
    Attach {
        op: u8,
        conn: u8,
        tx: Pick,
        rx: Pick,
        max: u16,
    },
    Detach {
        op: u8,
        dir: Dir,
        room: u32,
    },
    Rekey {
        op: u8,
        dir: Dir,
        pick: Pick,
    },
    ReadBack {
        op: u8,
        dir: Dir,
        room: u32,
    },
    SetMax {
        op: u8,
        max: i32,
    },
    GetMax(u8),
    Send {
        op: u8,
        len: u32,
        flags: i32,
        kind: Option<u8>,
        parts: u8,
    },
    /// The buffer ends after `good` bytes
    SendFault {
        op: u8,
        good: u32,
        bad: u32,
    },
    SendFile {
        op: u8,
        at: u32,
        len: u32,
        flags: i32,
    },
    /// sendfile(2)
    SendFile2 {
        op: u8,
        at: u32,
        len: u32,
    },
    SpliceIn {
        op: u8,
        len: u32,
        more: bool,
    },
    Recv {
        op: u8,
        len: u32,
        flags: i32,
        control: u8,
        parts: u8,
    },
    RecvFault {
        op: u8,
        good: u32,
        bad: u32,
    },
    SpliceOut {
        op: u8,
        len: u32,
    },
    Fionread(u8),
    Poll(u8),
    Misuse {
        op: u8,
        what: u8,
    },
    RawWrite {
        conn: u8,
        len: u32,
    },
    RawRead {
        conn: u8,
        len: u32,
    },
    Shutdown {
        conn: u8,
        how: u8,
    },
    Lowat {
        conn: u8,
        n: u32,
    },
    /// SO_SNDBUF while records are under way
    Sndbuf {
        conn: u8,
        n: u32,
    },
    SoError(u8),
    Nonblock {
        conn: u8,
        on: bool,
    },
    Disconnect(u8),
    Peer(u8, PeerDo),
    Together(u8, Meet),
}

impl Step {
    /// The call's name in the final table.
    pub fn name(&self) -> String {
        let text = format!("{self:?}");
        let word = |s: &str| {
            s.split(|c: char| !c.is_alphanumeric())
                .next()
                .unwrap_or("")
                .to_owned()
        };
        match self {
            Step::Peer(_, what) => format!("peer {}", word(&format!("{what:?}"))),
            Step::Together(_, meet) => format!("threads {}", word(&format!("{meet:?}"))),
            _ => word(&text),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    pub setup: Setup,
    pub steps: Vec<Step>,
}

impl Program {
    pub fn text(&self) -> String {
        let line = |value: serde_json::Result<String>| value.expect("plain data") + "\n";
        let mut text = line(serde_json::to_string(&self.setup));
        for step in &self.steps {
            text += &line(serde_json::to_string(step));
        }
        text
    }

    pub fn parse(text: &str) -> anyhow::Result<Program> {
        let mut lines = text.lines().filter(|l| l.starts_with(['{', '"']));
        let setup = lines.next().unwrap_or("");
        Ok(Program {
            setup: serde_json::from_str(setup)?,
            steps: lines.map(serde_json::from_str).collect::<Result<_, _>>()?,
        })
    }
}
