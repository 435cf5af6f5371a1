// SPDX-License-Identifier: MIT OR Apache-2.0
//! One program, one lane: two endpoints in lockstep over a relay.
//!
//! After each operation the wire is brought to rest (everything that was sent lies in the other end's
//! receive queue), so that what a single call finds does not depend on time. What cannot be had that
//! way runs as a loop of which only the sum counts.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::counters::{Both, Counters};
use crate::endpoint::Endpoint;
use crate::generate::SUITES12;
use crate::program::{End, Io, Program, SIDES, Side, Step};
use crate::relay::{self, Relay};

/// A receive buffer that holds all that a program sends before somebody reads.
const ROOMY: u32 = 1 << 20;

#[derive(Default)]
pub struct Lane {
    /// `(step, text)`: the answers of both ends in order.
    pub transcript: Vec<(usize, String)>,
    pub keylog: Vec<String>,
    /// What each side sent, as it was on the wire.
    pub captured: [Vec<u8>; 2],
    /// Where in it a further handshake begins in clear text (`Step::Again`).
    pub cuts: Vec<[usize; 2]>,
    /// Where one begins that failed: it need not have keys for what it put on the wire.
    pub failed: Option<[usize; 2]>,
    /// Shim logs of both ends, one JSON line per connection.
    pub logs: [String; 2],
    /// SSL_sendfile was granted so many times.
    pub granted: usize,
    /// An endpoint hung or died.
    pub trouble: Option<String>,
    /// A write was cut off: the last record on the wire need not be whole.
    pub cut_off: [bool; 2],
    /// The steps in which the wire was found to be plain.
    pub clear_in: Vec<usize>,
    /// What the kernel did: the operation, the side that was at it (2: both), the answer.
    pub deeds: Vec<(String, usize, String, Both)>,
}

#[derive(Default, Clone)]
pub(crate) struct EndState {
    pub(crate) blocking: bool,
    pub(crate) timeout: bool,
    pub(crate) parked: bool,
    pub(crate) fd_closed: bool,
    pub(crate) fin: bool,
    /// A call failed for good: nothing is to be expected from it.
    pub(crate) broken: bool,
    /// SSL_get_shutdown.
    pub(crate) shutdown: i64,
    /// A KeyUpdate or a ticket waits for the next call that does I/O.
    pub(crate) waiting: bool,
    /// How much it had put on the wire when its close_notify was there, too.
    pub(crate) closed_at: Option<i64>,
    /// SSL_MODE_AUTO_RETRY.
    pub(crate) auto_retry: bool,
}

pub(crate) struct Runner<'a> {
    pub(crate) program: &'a Program,
    counters: &'a mut Counters,
    /// What several commands are part of, if they are.
    part_of: Option<&'static str>,
    pub(crate) ends: [&'a mut Endpoint; 2],
    pub(crate) relay: Relay,
    pub(crate) lane: Lane,
    pub(crate) state: [EndState; 2],
    /// Application bytes sent *by* this side and not yet read.
    pub(crate) out: [i64; 2],
    /// Clear bytes likewise.
    pub(crate) clear: [i64; 2],
    /// All clear bytes that it has sent.
    pub(crate) clear_sent: [i64; 2],
    /// The stream *from* this side holds data whose record borders may differ.
    pub(crate) loose: [bool; 2],
    pub(crate) lag: [bool; 2],
    /// All that this side sent has arrived.
    pub(crate) quiet: [bool; 2],
    pub(crate) step: usize,
    pub(crate) patience: Duration,
    pub(crate) how: How<'a>,
}

/// A value of an answer.
pub(crate) fn value(answer: &str, name: &str) -> i64 {
    let found = answer
        .split(' ')
        .find_map(|w| w.strip_prefix(name)?.strip_prefix('='));
    found.and_then(|v| v.parse().ok()).unwrap_or(0)
}

#[derive(Clone, Copy, Default)]
pub struct How<'a> {
    /// Send what waits before a read (S2, a deviation that is known).
    pub careful: bool,
    /// Read all there is before a renegotiation (S4).
    pub empty: bool,
    /// The lane without a shim, when it is over: what depends on more than the program follows it.
    pub plain: Option<&'a Lane>,
}

pub fn run(
    program: &Program,
    client: &mut Endpoint,
    server: &mut Endpoint,
    patience: Duration,
    how: How<'_>,
    counters: &mut Counters,
) -> Lane {
    let mut lane = Lane::default();
    counters.news();
    for end in [&mut *client, &mut *server] {
        end.new_log();
    }
    match go(
        program,
        [client, server],
        patience,
        how,
        counters,
        &mut lane,
    ) {
        Ok(()) => {}
        Err(e) => {
            lane.transcript.push((usize::MAX, format!("TROUBLE {e:#}")));
            lane.trouble = Some(format!("{e:#}"));
            for end in [client, server] {
                if let Err(e) = end.restart() {
                    lane.trouble = Some(format!("cannot start the endpoint again: {e:#}"));
                }
            }
            return lane;
        }
    }
    lane.logs = [client.new_log(), server.new_log()];
    lane
}

/// What the server's tickets allow.
fn early_data(program: &Program) -> u32 {
    let early = |step: &Step| match step {
        Step::Again { early, .. } => *early,
        _ => 0,
    };
    program.steps.iter().map(early).max().unwrap_or(0)
}

fn open_line(program: &Program, side: Side, port: u16, patience: Duration) -> String {
    let setup = &program.setup;
    let End {
        io,
        modes,
        nonblocking,
        timeout,
        use_ex,
        read_ahead,
        max_fragment,
        send_buffer,
        receive_buffer,
    } = program.end(side);
    let role = if side == Side::Server { 's' } else { 'c' };
    let bio = match io {
        Io::Socket => "sock",
        Io::Own => "own",
        Io::Buffer => "buf",
    };
    let flag = |b: bool| i32::from(b);
    format!(
        "open role={role} port={port} ver={} suite={} bio={bio} mode={modes} nb={} rto={timeout} sto={timeout} ex={} \
         ra={} msf={max_fragment} sndbuf={send_buffer} rcvbuf={receive_buffer} tickets={} noren={} ask={} cert={} \
         mfl={} pha=1 eofok={} copy={} early={} patience={}",
        if setup.tls13 { 13 } else { 12 },
        if side == Side::Server && !setup.tls13 {
            SUITES12.join(":")
        } else {
            setup.suite.clone()
        },
        flag(*nonblocking),
        flag(*use_ex),
        flag(*read_ahead),
        setup.tickets,
        setup.refuse_renegotiation >> side.index() & 1,
        flag(setup.ask_certificate && side == Side::Server),
        flag(setup.client_certificate),
        setup.fragment_length,
        flag(setup.eof_is_fine),
        modes >> 3 & 1,
        early_data(program),
        patience.as_millis(),
    )
}

fn go(
    program: &Program,
    ends: [&mut Endpoint; 2],
    patience: Duration,
    how: How<'_>,
    counters: &mut Counters,
    lane: &mut Lane,
) -> Result<()> {
    let listener = relay::listen()?;
    let port = listener.local_addr()?.port();
    let [client, server] = ends;
    client.send(&open_line(program, Side::Client, port, patience))?;
    let client_socket = accept(&listener)?;
    server.send(&open_line(program, Side::Server, port, patience))?;
    let server_socket = accept(&listener)?;
    let state = SIDES.map(|side| {
        let end = program.end(side);
        EndState {
            blocking: !end.nonblocking,
            timeout: end.timeout != 0,
            auto_retry: end.modes & 4 != 0,
            ..EndState::default()
        }
    });
    let mut runner = Runner {
        program,
        counters,
        part_of: None,
        ends: [client, server],
        relay: Relay::new(
            client_socket,
            server_socket,
            SIDES.map(|side| program.end(side).receive_buffer >= ROOMY),
        )?,
        lane: std::mem::take(lane),
        state,
        out: [0; 2],
        clear: [0; 2],
        clear_sent: [0; 2],
        loose: [false; 2],
        lag: [false; 2],
        quiet: [true; 2],
        step: 0,
        patience,
        how,
    };
    let result = runner.everything();
    *lane = runner.lane;
    for (side, way) in runner.relay.ways.into_iter().enumerate() {
        lane.captured[side] = way.captured;
        if let Some(end) = lane.failed {
            lane.captured[side].truncate(end[side]);
        }
    }
    result
}

fn accept(listener: &TcpListener) -> Result<std::net::TcpStream> {
    listener.set_nonblocking(true)?;
    let mut fds = [libc::pollfd {
        fd: std::os::fd::AsRawFd::as_raw_fd(listener),
        events: libc::POLLIN,
        revents: 0,
    }];
    // SAFETY: one live pollfd.
    unsafe { libc::poll(fds.as_mut_ptr(), 1, 20_000) };
    let accepted = listener.accept();
    let (socket, _) = accepted.context("an endpoint does not connect")?;
    Ok(socket)
}

impl Runner<'_> {
    fn everything(&mut self) -> Result<()> {
        for side in 0..2 {
            let line = self.await_line(side)?;
            if value(&line, "ret") != 0 {
                bail!("{line}");
            }
        }
        let hs = ["hs loose=1".to_owned()];
        self.part_of = Some("handshake");
        self.both([&hs, &hs])?;
        self.part_of = None;
        let steps = &self.program.steps;
        for (n, step) in steps.iter().enumerate() {
            self.step = n + 1;
            self.step(step)?;
            // A handshake that failed leaves ends that wait for each other.
            if self.lane.failed.is_some() {
                break;
            }
        }
        self.step = steps.len() + 1;
        for side in 0..2 {
            // A parked write and a stalled wire end with the connection.
            self.lane.cut_off[side] |= self.state[side].parked;
            self.send(side, "end")?;
        }
        Ok(())
    }

    fn await_line(&mut self, side: usize) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            self.relay.pump();
            if let Some(line) = self.take_line(side)? {
                return Ok(line);
            }
            self.wait(false);
        }
        bail!("no answer from {}", SIDES[side].letter())
    }

    /// An answer; other lines are put where they belong.
    fn take_line(&mut self, side: usize) -> Result<Option<String>> {
        let name = SIDES[side].letter();
        while let Some(line) = self.ends[side]
            .line()
            .with_context(|| format!("side {name}"))?
        {
            if let Some(key) = line.strip_prefix("K ") {
                self.lane.keylog.push(key.to_owned());
            } else if let Some(n) = line.strip_prefix("# sent ") {
                self.relay.ways[side].announced = n.parse().unwrap_or(0);
            } else if line == "# granted" {
                self.lane.granted += 1;
            } else if line.starts_with('=') {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }

    /// `alone`: one end is at work, and the wire has room for some of it. It is left alone until it
    /// answers, or a while has gone by: to look after each segment would cost more than all else,
    /// since in an emulated machine nothing is dearer than the change from one process to another.
    fn wait(&self, alone: bool) {
        let (mut fds, patience) = match alone {
            true => (Vec::new(), 2),
            false => (self.relay.poll_fds(), 20),
        };
        for end in &self.ends {
            fds.push(libc::pollfd {
                fd: end.fd(),
                events: libc::POLLIN,
                revents: 0,
            });
        }
        // SAFETY: `fds` is a live array of its length.
        unsafe { libc::poll(fds.as_mut_ptr(), fds.len() as libc::nfds_t, patience) };
    }

    /// Both ends run their commands at once; the answers, in order.
    pub(crate) fn phase(&mut self, commands: [&[String]; 2]) -> Result<[Vec<String>; 2]> {
        for (side, list) in commands.iter().enumerate() {
            for command in *list {
                self.ends[side].send(command)?;
            }
        }
        let mut answers = [Vec::new(), Vec::new()];
        let until =
            Instant::now() + self.patience * (1 + commands[0].len().max(commands[1].len()) as u32);
        loop {
            self.relay.pump();
            for (side, taken) in answers.iter_mut().enumerate() {
                while let Some(line) = self.take_line(side)? {
                    taken.push(line);
                }
            }
            if (0..2).all(|side| answers[side].len() >= commands[side].len()) {
                return Ok(answers);
            }
            if Instant::now() > until {
                let late: Vec<String> = (0..2)
                    .filter_map(|side| {
                        commands[side]
                            .get(answers[side].len())
                            .map(|c| format!("{} {c}", SIDES[side].letter()))
                    })
                    .collect();
                bail!("HANG in step {}: {}", self.step, late.join(", "));
            }
            self.wait(commands.iter().any(|list| list.is_empty()));
        }
    }

    /// One command at one end, the wire at rest before and after.
    pub(crate) fn send(&mut self, side: usize, command: &str) -> Result<String> {
        let have = self.relay.delivered(1 - side);
        let command = [format!("{command} have={have} alone=1")];
        let lists: [&[String]; 2] = if side == 0 {
            [&command, &[]]
        } else {
            [&[], &command]
        };
        let mut answers = self.phase(lists)?;
        self.quiet = self.relay.settle();
        let answer = answers[side].pop().unwrap_or_default();
        self.learn(side, &answer);
        self.note(side, &answer);
        self.count(side, &answer);
        Ok(answer)
    }

    /// What the kernel did meanwhile.
    fn count(&mut self, side: usize, answer: &str) {
        let name = answer.trim_start_matches('=').split(' ').next();
        let name = self.part_of.or(name).unwrap_or_default().to_owned();
        let news = self.counters.news();
        self.lane.deeds.push((name, side, answer.to_owned(), news));
    }

    pub(crate) fn both(&mut self, commands: [&[String]; 2]) -> Result<()> {
        self.release(0);
        self.release(1);
        let answers = self.phase(commands)?;
        self.quiet = self.relay.settle();
        for (side, list) in answers.iter().enumerate() {
            for answer in list {
                self.learn(side, answer);
                self.note(side, answer);
            }
        }
        self.count(2, "=together");
        Ok(())
    }

    pub(crate) fn note(&mut self, side: usize, text: &str) {
        self.lane
            .transcript
            .push((self.step, format!("{} {text}", SIDES[side].letter())));
    }

    /// What the answer means for what can be expected later.
    fn learn(&mut self, side: usize, answer: &str) {
        let name = answer[1..].split(' ').next().unwrap_or_default();
        let n = value(answer, "n");
        match name {
            "w" | "sf" | "wpark" | "wint" | "wgo" | "w2" | "dup" | "cw" => self.out[side] += n,
            "r" | "rn" | "settle" | "cr" | "int" | "duo" => self.out[1 - side] -= n,
            // Early data: the server's answer, which comes second, takes what the client gave.
            "early" if side == 0 => self.out[0] += n,
            "early" => self.out[0] -= n,
            "xs" => {
                self.clear[side] += n;
                self.clear_sent[side] += n;
            }
            "xr" => self.clear[1 - side] -= n,
            _ => {}
        }
        if self.out[1 - side] <= 0 {
            self.loose[1 - side] = false;
        }
        let err = value(answer, "err");
        // A return value of 0 reads as "SYSCALL" where nothing has failed: a first SSL_shutdown, a write of
        // nothing. A read that says so without an errno met the end of the stream (1.1.1).
        let failed = match name {
            "w" | "wgo" | "wpark" | "wint" | "w2" | "dup" | "cw" | "sf" | "sd" => {
                err == 1 || (err == 5 && value(answer, "errno") != 0)
            }
            "r" | "rn" | "pk" | "dh1" | "hs" | "settle" | "cr" | "int" | "duo" | "early" => {
                // The peer's close_notify is no failure: clear text may follow.
                matches!(err, 1 | 5)
            }
            "anew" => err != 0,
            _ => false,
        };
        // "Protocol is shutdown" answers a write after our own close_notify; reading goes on.
        self.state[side].broken |= failed && !answer.contains("q=20:207,");
        // What a failed end had begun to send stays half sent.
        self.lane.cut_off[side] |= self.state[side].broken;
        self.state[side].waiting = matches!(name, "ku" | "nst" | "pha")
            && value(answer, "ret") == 1
            || self.state[side].waiting
                && matches!(
                    name,
                    "ku" | "nst"
                        | "pha"
                        | "hp"
                        | "state"
                        | "mode"
                        | "nb"
                        | "msf"
                        | "to"
                        | "fd"
                        | "fork"
                );
        if answer.contains(" sd=") {
            let state = &mut self.state[side];
            state.shutdown = value(answer, "sd");
            state.closed_at = match state.shutdown & 1 {
                0 => None,
                _ => state
                    .closed_at
                    .or(Some(self.relay.ways[side].captured.len() as i64)),
            };
        }
    }

    /// Bytes that waited for a reader at this side are delivered.
    pub(crate) fn release(&mut self, side: usize) {
        let way = &mut self.relay.ways[1 - side];
        if way.held {
            way.held = false;
            self.quiet = self.relay.settle();
        }
    }

    pub(crate) fn hold(&mut self, side: usize) {
        if self.lag[side] {
            self.relay.ways[1 - side].held = true;
        }
    }

    /// May a single call at this end wait for ever?
    pub(crate) fn may_wait(&self, side: usize) -> bool {
        let state = &self.state[side];
        let peer = &self.state[1 - side];
        let something = self.out[1 - side] > 0
            || peer.fd_closed
            || peer.fin
            || peer.shutdown & 1 != 0
            || state.broken
            || state.shutdown & 2 != 0;
        state.blocking && !state.timeout && !something
    }

    pub(crate) fn polite(&self) -> bool {
        self.state.iter().all(|s| !s.blocking || s.timeout)
    }

    /// Can single calls of a reader at this side be compared? Without AUTO_RETRY a call returns after a ticket,
    /// but not if something has been read ahead.
    pub(crate) fn exact(&self, side: usize) -> bool {
        let end = self.program.end(side_of(side));
        end.receive_buffer >= ROOMY
            && (self.state[side].auto_retry || !end.read_ahead)
            && self.quiet[1 - side]
            && !self.loose[1 - side]
            && !self.relay.is_held_up(1 - side)
    }

    pub(crate) fn read_loop(&mut self, side: usize, n: i64, piece: u32) -> Result<()> {
        let loose = i32::from(
            !self.exact(side)
                || self.relay.ways[1 - side].held
                || n < self.out[1 - side] && self.loose[1 - side],
        );
        // The loop runs while the relay delivers what it held.
        self.relay.ways[1 - side].held = false;
        self.send(
            side,
            &format!("rn n={n} piece={} loose={loose}", piece.max(1)),
        )?;
        self.hold(side);
        Ok(())
    }

    fn step(&mut self, step: &Step) -> Result<()> {
        match step {
            Step::Do(side, op) => self.op(side.index(), op),
            Step::Together(deeds) => self.together(deeds),
            Step::Barrier => self.barrier(),
            Step::Duplex(n) => self.duplex(*n),
            Step::Again { shutdown, early } => {
                self.part_of = Some("again");
                self.again(*shutdown, *early)?;
                self.part_of = None;
                Ok(())
            }
            Step::Renegotiate {
                by,
                short,
                suite,
                ask,
            } => {
                self.part_of = Some("renegotiate");
                self.renegotiate(by.index(), *short, suite.as_deref(), *ask)?;
                self.part_of = None;
                Ok(())
            }
            Step::Wire { to, cut, lag } => {
                let to = to.index();
                self.release(to);
                self.relay.ways[1 - to].cut = *cut;
                self.lag[to] = *lag;
                self.hold(to);
                Ok(())
            }
            Step::Damage { to } => {
                let from = 1 - to.index();
                self.release(to.index());
                self.relay.ways[from].damage = true;
                Ok(())
            }
        }
    }
}

pub(crate) fn side_of(index: usize) -> Side {
    SIDES[index]
}
