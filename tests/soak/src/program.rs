// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program: how two ends are set up, and what they do. It is data, so that it can be printed,
//! shrunk and run again. Its operations are symbolic ("read all that is there"): what they come to is
//! decided while it runs (`run.rs`), so that a program from which a step was taken still makes sense.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Side {
    Client,
    Server,
}

pub const SIDES: [Side; 2] = [Side::Client, Side::Server];

impl Side {
    pub fn other(self) -> Side {
        match self {
            Side::Client => Side::Server,
            Side::Server => Side::Client,
        }
    }

    pub fn index(self) -> usize {
        self as usize
    }

    pub fn letter(self) -> char {
        match self {
            Side::Client => 'C',
            Side::Server => 'S',
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Io {
    Socket,
    /// A BIO method of the program's own over recv and send.
    Own,
    /// BIO_f_buffer above the socket, in the write direction.
    Buffer,
}

/// One end.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct End {
    pub io: Io,
    /// 1 partial writes, 2 moving buffer, 4 AUTO_RETRY; 8: the object is an SSL_dup of one that was set up
    pub modes: u8,
    pub nonblocking: bool,
    /// Milliseconds of SO_RCVTIMEO and SO_SNDTIMEO; 0 is none.
    pub timeout: u32,
    pub use_ex: bool,
    pub read_ahead: bool,
    pub max_fragment: u16,
    pub send_buffer: u32,
    pub receive_buffer: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Setup {
    pub tls13: bool,
    pub suite: String,
    pub ends: [End; 2],
    pub tickets: u8,
    /// SSL_OP_NO_RENEGOTIATION: 1 at the client, 2 at the server.
    pub refuse_renegotiation: u8,
    pub ask_certificate: bool,
    pub client_certificate: bool,
    pub fragment_length: u8,
    pub eof_is_fine: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Cut {
    Whole,
    /// Segments of so many bytes.
    Every(u16),
    /// A few hundred single bytes, then longer pieces.
    Bytes,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ending {
    Close,
    Fin,
    Reset,
}

/// What one end does in a phase in which both run at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Deed {
    Write(u32),
    SendFile(u32),
    KeyUpdate { ask: bool },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Op {
    Write(u32),
    /// One SSL_read, smaller than a record.
    ReadOnce(u32),
    Peek(u32),
    /// So many hundredths of what is there, in calls of at most `piece` bytes.
    ReadPart {
        percent: u8,
        piece: u32,
    },
    ReadAll {
        piece: u32,
    },
    HasPending,
    KeyUpdate {
        ask: bool,
    },
    Handshake,
    Ticket,
    AskCertificate,
    Shutdown,
    Modes(u8),
    NonBlocking(bool),
    MaxFragment(u16),
    SendFile(u32),
    /// Write against a wire that stands still, and leave it unfinished.
    Park(u32),
    /// Let the wire go on and finish that write.
    Finish,
    ClearSend(u32),
    ClearReceive,
    State,
    End(Ending),
    /// Small bytes that a buffering BIO keeps, and more behind them.
    WriteTwice(u32, u32),
    /// SSL_dup of a connection that has begun: a second owner, who goes again.
    Dup(u32),
    /// SSL_set_fd and the like: 0 the same fd, 1 and 2 a dup, 3 a new BIO, 4 a dup behind OpenSSL's back.
    ChangeFd(u8),
    /// Through a BIO_f_ssl, whose data passes no SSL function of the program's.
    ChainWrite(u32),
    ChainRead,
    /// One process goes on, the other frees its SSL and closes.
    Fork {
        child: bool,
    },
    /// One SSL_read that a signal may interrupt.
    Interrupted(u32),
    /// SO_RCVTIMEO and SO_SNDTIMEO, in milliseconds.
    Timeout(u8),
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Step {
    Do(Side, Op),
    /// Both at once: all deeds, then each reads what the other wrote.
    Together([Vec<Deed>; 2]),
    /// Two round trips, after which no KeyUpdate waits for its answer.
    Barrier,
    Renegotiate {
        by: Side,
        short: bool,
        suite: Option<String>,
        ask: bool,
    },
    /// How the wire towards this side is cut, and whether bytes wait for a reader.
    Wire {
        to: Side,
        cut: Cut,
        lag: bool,
    },
    /// Each end writes so many bytes in one thread and reads the other's in another.
    Duplex([u32; 2]),
    /// SSL_clear at both ends and another handshake, on the same socket. `shutdown`: close_notify both ways
    /// first, which lets a client resume; with up to `early` bytes of early data.
    Again {
        shutdown: bool,
        early: u32,
    },
    /// The last byte of what the next write to this side puts on the wire is damaged.
    Damage {
        to: Side,
    },
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Program {
    pub seed: u64,
    pub setup: Setup,
    pub steps: Vec<Step>,
}

impl Program {
    pub fn end(&self, side: Side) -> &End {
        &self.setup.ends[side.index()]
    }

    /// One line per step, as a report shows it and `--replay` reads it.
    pub fn text(&self) -> String {
        let mut text = format!("seed {}\n{}\n", self.seed, json(&self.setup));
        for step in &self.steps {
            text += &json(step);
            text.push('\n');
        }
        text
    }

    pub fn parse(text: &str) -> anyhow::Result<Program> {
        let mut lines = text.lines().filter(|l| !l.trim().is_empty());
        let seed = lines
            .next()
            .and_then(|l| l.strip_prefix("seed ")?.trim().parse().ok());
        let seed = seed.ok_or_else(|| anyhow::anyhow!("the first line must be: seed N"))?;
        let setup = serde_json::from_str(lines.next().unwrap_or_default())?;
        let steps = lines.map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(Program { seed, setup, steps })
    }
}

fn json(of: &impl Serialize) -> String {
    serde_json::to_string(of).expect("plain data")
}
