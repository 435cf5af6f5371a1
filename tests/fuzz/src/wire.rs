// SPDX-License-Identifier: MIT OR Apache-2.0
//! The peer's eyes: what came over TCP, against what the model says must come. Records are opened under
//! the key and the number that are their turn, and no key may meet a nonce twice, which is looked for
//! by itself, over the whole sequence.

use std::collections::{HashSet, VecDeque};

use ktlsshim_tests::Keys;
use ktlsshim_tests::peer::{DATA, Half, length};

use crate::model::{Expect, Mixed};

#[derive(Default)]
pub struct Nonces(HashSet<(Vec<u8>, [u8; 12])>);

impl Nonces {
    /// False: this key was used with this nonce before.
    pub fn add(&mut self, key: &[u8], nonce: [u8; 12]) -> bool {
        self.0.insert((key.to_vec(), nonce))
    }
}

#[derive(Default)]
pub struct Wire {
    have: Vec<u8>,
    half: Option<Half>,
    pub records: u64,
}

/// What the AEAD is given for the next record.
pub fn nonce(keys: &Keys) -> [u8; 12] {
    let mut nonce = keys.iv;
    if !keys.explicit_nonce() {
        for (n, s) in nonce[4..].iter_mut().zip(keys.seq.to_be_bytes()) {
            *n ^= s;
        }
    }
    nonce
}

impl Wire {
    pub fn add(&mut self, bytes: &[u8]) {
        self.have.extend(bytes);
    }

    fn record(&mut self, nonces: &mut Nonces) -> Result<Option<(u8, Vec<u8>)>, String> {
        if self.have.len() < 5 || self.have.len() < 5 + length(&self.have) {
            return Ok(None);
        }
        let len = 5 + length(&self.have);
        let wire: Vec<u8> = self.have.drain(..len).collect();
        let Some(half) = self.half.as_mut() else {
            return Err("a record where plain bytes were due".into());
        };
        let (number, used) = (half.seq(), nonce(half.keys()));
        if !nonces.add(&half.keys().key, used) {
            return Err(format!(
                "record {number}: this key was used with this nonce before"
            ));
        }
        let fault = |f| format!("record {number} ({len} bytes on the wire): {f:?}");
        let record = half.open(&wire).map_err(fault)?;
        self.records += 1;
        Ok(Some((record.kind, record.data)))
    }

    /// The keys of the next record, as the wire has it.
    pub fn keys(&self) -> Option<&Keys> {
        self.half.as_ref().map(Half::keys)
    }

    /// True when all of it has come.
    fn mixed(&mut self, mixed: &mut Mixed, nonces: &mut Nonces) -> Result<bool, String> {
        while mixed.left != [0, 0] {
            if self.have.len() < 5 || self.have.len() < 5 + length(&self.have) {
                return Ok(false);
            }
            // Which re-keys came before this record is the scheduler's choice.
            let wire = self.have[..5 + length(&self.have)].to_vec();
            let opens = |keys: &Keys| Half::new(keys.clone()).open(&wire).is_ok();
            let now = self.half.as_ref().is_some_and(|half| opens(half.keys()));
            if !now && let Some(n) = mixed.keys.iter().position(opens) {
                let keys = mixed.keys.drain(..=n).next_back();
                self.half = keys.map(Half::new);
            }
            let Some((kind, data)) = self.record(nonces)? else {
                return Ok(false);
            };
            if kind != DATA || !mixed.take(&data) {
                return Err(format!(
                    "a record of type {kind} with {} bytes of no single writer",
                    data.len()
                ));
            }
        }
        if let Some(keys) = mixed.keys.pop_back() {
            self.half = Some(Half::new(keys));
        }
        Ok(true)
    }

    /// Takes as much as is there off `out`. Whatever contradicts it is an error.
    pub fn check(&mut self, out: &mut VecDeque<Expect>, nonces: &mut Nonces) -> Result<(), String> {
        loop {
            match out.front_mut() {
                None if self.have.is_empty() => return Ok(()),
                None => return Err(format!("{} bytes that nobody sent", self.have.len())),
                Some(Expect::Keys(keys)) => self.half = Some(Half::new(keys.clone())),
                Some(Expect::Plain) => self.half = None,
                Some(Expect::Raw(bytes)) => {
                    let n = bytes.len().min(self.have.len());
                    if self.have[..n] != bytes[..n] {
                        return Err("plain bytes differ".into());
                    }
                    self.have.drain(..n);
                    bytes.drain(..n);
                    if !bytes.is_empty() {
                        return Ok(());
                    }
                }
                Some(Expect::Record(kind, data)) => {
                    let (kind, data) = (*kind, std::mem::take(data));
                    match self.record(nonces)? {
                        None => {
                            *out.front_mut().expect("still there") = Expect::Record(kind, data);
                            return Ok(());
                        }
                        Some(came) if came == (kind, data.clone()) => {}
                        Some((other, bytes)) => {
                            return Err(format!(
                                "a record of type {other} with {} bytes instead of type {kind} with {}{}",
                                bytes.len(),
                                data.len(),
                                if other == kind && bytes.len() == data.len() {
                                    ", other bytes"
                                } else {
                                    ""
                                }
                            ));
                        }
                    }
                }
                Some(Expect::Stream(data, max, records)) => {
                    let Some((kind, bytes)) = self.record(nonces)? else {
                        return Ok(());
                    };
                    if kind != DATA || bytes.is_empty() || bytes.len() > *max {
                        let n = bytes.len();
                        return Err(format!(
                            "a record of type {kind} with {n} bytes; at most {max}"
                        ));
                    }
                    let free = *records == u64::MAX;
                    if *records == 0 || !data.starts_with(&bytes) {
                        return Err("bytes of a file or pipe differ".into());
                    }
                    data.drain(..bytes.len());
                    if !free {
                        *records -= 1;
                    }
                    if !data.is_empty() {
                        continue;
                    }
                    if *records != 0 && !free {
                        return Err(format!("{records} records fewer than the number says"));
                    }
                }
                Some(Expect::Mixed(mixed)) => {
                    if !self.mixed(mixed, nonces)? {
                        return Ok(());
                    }
                }
            }
            out.pop_front();
        }
    }
}

/// Nothing more has to come.
pub fn settled(out: &VecDeque<Expect>) -> bool {
    out.iter()
        .all(|e| matches!(e, Expect::Keys(_) | Expect::Plain))
}
