// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `cargo xtask bench` measures: rows, columns, and the targets of each row.

use serde_json::{Value, json};

/// Whose TLS carries the work. The far end is the same in each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Column {
    /// No TLS: the floor
    Tcp,
    /// OpenSSL
    Openssl,
    /// OpenSSL with its own kernel TLS, by `Options = KTLS`
    Ktls,
    /// OpenSSL with the shim, over algif_tls
    Shim,
}

pub const COLUMNS: [Column; 4] = [Column::Tcp, Column::Openssl, Column::Ktls, Column::Shim];

impl Column {
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Openssl => "openssl",
            Self::Ktls => "ktls",
            Self::Shim => "shim",
        }
    }
}

/// What a unit of a row is, and so what its figures are divided by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    Byte,
    Round,
    Request,
    Connection,
    Record,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Self::Byte => "byte",
            Self::Round => "round trip",
            Self::Request => "request",
            Self::Connection => "connection",
            Self::Record => "record",
        }
    }
}

/// Which directions of column D have to be in the kernel for the cell to be what it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Carried {
    Tx,
    Rx,
    Both,
    /// Too short a connection to be worth it: either is fine, the cell says which
    Either,
}

pub struct Row {
    pub name: &'static str,
    /// nginx does the work, and tests/bench/fetch.c asks for it; else it is tests/bench/work.c
    pub nginx: bool,
    /// Options of that program, space-separated
    pub options: &'static str,
    pub unit: Unit,
    /// Units of one sample
    pub total: u64,
    /// Plaintext bytes of one unit that have to pass, in each direction that is carried
    pub bytes: u64,
    pub carried: Carried,
    /// Instructions, D/A and D/B, at most (B: TLS 1.2 where it cannot do 1.3)
    pub to_openssl: f64,
    pub to_ktls: Option<f64>,
    /// Cheap enough for CI
    pub short: bool,
    /// Only when it is named in full: minutes per column
    pub long: bool,
}

const MIB: u64 = 1 << 20;

const fn row(name: &'static str, options: &'static str, unit: Unit, total: u64) -> Row {
    Row {
        name,
        nginx: false,
        options,
        unit,
        total,
        bytes: 1,
        carried: Carried::Tx,
        // No row may cost more than this, whatever else it is about.
        to_openssl: 1.02,
        to_ktls: None,
        short: false,
        long: false,
    }
}

pub const ROWS: &[Row] = &[
    Row {
        nginx: true,
        to_openssl: 0.80,
        to_ktls: Some(0.92),
        short: true,
        ..row(
            "file",
            "row=file host=16M.bin size=16777216",
            Unit::Byte,
            16 * MIB,
        )
    },
    Row {
        nginx: true,
        to_openssl: 1.00,
        to_ktls: Some(0.92),
        ..row(
            "file-h2",
            "row=h2 host=16M.bin size=16777216",
            Unit::Byte,
            16 * MIB,
        )
    },
    Row {
        nginx: true,
        bytes: 1 << 10,
        ..row("file-1K", "row=small host=1K.bin", Unit::Request, 100)
    },
    Row {
        nginx: true,
        bytes: 10 << 10,
        ..row("file-10K", "row=small host=10K.bin", Unit::Request, 100)
    },
    Row {
        nginx: true,
        bytes: 100 << 10,
        ..row("file-100K", "row=small host=100K.bin", Unit::Request, 50)
    },
    Row {
        nginx: true,
        carried: Carried::Both,
        ..row(
            "proxy",
            "row=file host=16M.bin size=16777216",
            Unit::Byte,
            16 * MIB,
        )
    },
    row(
        "write-1K",
        "row=write role=server size=1024",
        Unit::Byte,
        4 * MIB,
    ),
    Row {
        to_openssl: 0.90,
        to_ktls: Some(0.96),
        short: true,
        ..row(
            "write-16K",
            "row=write role=server size=16384",
            Unit::Byte,
            16 * MIB,
        )
    },
    Row {
        to_openssl: 0.86,
        to_ktls: Some(0.95),
        ..row(
            "write-128K",
            "row=write role=server size=131072",
            Unit::Byte,
            16 * MIB,
        )
    },
    Row {
        carried: Carried::Rx,
        ..row(
            "read-4K",
            "row=read role=client size=4096",
            Unit::Byte,
            8 * MIB,
        )
    },
    Row {
        carried: Carried::Rx,
        to_openssl: 0.88,
        to_ktls: Some(0.96),
        short: true,
        ..row(
            "read-16K",
            "row=read role=client size=16384",
            Unit::Byte,
            8 * MIB,
        )
    },
    Row {
        carried: Carried::Rx,
        to_openssl: 0.85,
        to_ktls: Some(0.96),
        ..row(
            "read-128K",
            "row=read role=client size=131072",
            Unit::Byte,
            8 * MIB,
        )
    },
    Row {
        carried: Carried::Both,
        bytes: 100,
        ..row(
            "echo-100",
            "row=echo role=server size=100",
            Unit::Round,
            500,
        )
    },
    Row {
        carried: Carried::Both,
        bytes: 1024,
        to_openssl: 0.91,
        to_ktls: Some(0.84),
        short: true,
        ..row(
            "echo-1K",
            "row=echo role=server size=1024",
            Unit::Round,
            500,
        )
    },
    Row {
        carried: Carried::Either,
        to_ktls: Some(1.00),
        short: true,
        ..row(
            "connect",
            "row=connect role=server size=1024",
            Unit::Connection,
            20,
        )
    },
    Row {
        carried: Carried::Either,
        ..row(
            "connect-resumed",
            "row=connect role=server size=1024 resume=1",
            Unit::Connection,
            20,
        )
    },
    Row {
        carried: Carried::Rx,
        bytes: 16384,
        ..row(
            "wake-37",
            "row=wake role=client size=16384 piece=37 pause=20000",
            Unit::Record,
            2,
        )
    },
    Row {
        carried: Carried::Rx,
        bytes: 16384,
        ..row(
            "wake-536",
            "row=wake role=client size=16384 piece=536 pause=20000",
            Unit::Record,
            16,
        )
    },
    Row {
        carried: Carried::Rx,
        bytes: 16384,
        ..row(
            "wake-1448",
            "row=wake role=client size=16384 piece=1448 pause=20000",
            Unit::Record,
            32,
        )
    },
    row(
        "scale-1",
        "row=scale role=server size=16384 connections=1",
        Unit::Byte,
        16 * MIB,
    ),
    row(
        "scale-10",
        "row=scale role=server size=16384 connections=10",
        Unit::Byte,
        16 * MIB,
    ),
    row(
        "scale-100",
        "row=scale role=server size=16384 connections=100",
        Unit::Byte,
        48 * MIB,
    ),
    Row {
        long: true,
        ..row(
            "scale-1000",
            "row=scale role=server size=16384 connections=1000",
            Unit::Byte,
            16 * MIB,
        )
    },
    Row {
        long: true,
        ..row(
            "scale-5000",
            "row=scale role=server size=4096 connections=5000",
            Unit::Byte,
            20_480_000,
        )
    },
    Row {
        carried: Carried::Both,
        to_openssl: 0.60,
        ..row("idle", "row=idle role=server size=1", Unit::Connection, 200)
    },
];

/// The ratio of wake-ups that the row wake-1448 has to stay under, to A and to B.
pub const WAKES: (&str, f64, f64) = ("wake-1448", 0.25, 0.01);

pub fn find(name: &str) -> Option<&'static Row> {
    ROWS.iter().find(|row| row.name == name)
}

/// Rows whose name is, or begins with, one of `names`; all but the long ones without names.
pub fn chosen(names: &[String]) -> Vec<&'static Row> {
    let begins = |row: &str, name: &str| {
        row == name
            || row
                .strip_prefix(name)
                .is_some_and(|rest| rest.starts_with('-'))
    };
    ROWS.iter()
        .filter(|row| match row.long {
            true => names.iter().any(|name| name == row.name),
            false => names.is_empty() || names.iter().any(|name| begins(row.name, name)),
        })
        .collect()
}

/// One cell of the table, as the guest is told of it.
#[derive(Clone)]
pub struct Cell {
    pub row: &'static Row,
    pub column: Column,
    pub tls: String,
    pub cipher: String,
}

impl Cell {
    pub fn key(&self) -> String {
        key(self.row.name, &self.tls, &self.cipher, self.column.name())
    }

    pub fn to_json(&self) -> Value {
        json!({ "row": self.row.name, "column": self.column.name(), "tls": self.tls, "cipher": self.cipher })
    }

    pub fn from_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str();
        let column = text("column")?;
        Some(Self {
            row: find(text("row")?)?,
            column: COLUMNS.into_iter().find(|c| c.name() == column)?,
            tls: text("tls")?.to_owned(),
            cipher: text("cipher")?.to_owned(),
        })
    }
}

pub fn key(row: &str, tls: &str, cipher: &str, column: &str) -> String {
    format!("{row}/{tls}/{cipher}/{column}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_named_by_its_beginning() {
        let names = |list: &[&str]| {
            let list: Vec<_> = list.iter().map(|n| (*n).to_owned()).collect();
            chosen(&list).iter().map(|r| r.name).collect::<Vec<_>>()
        };
        assert_eq!(names(&["echo"]), ["echo-100", "echo-1K"]);
        assert_eq!(names(&["connect-resumed"]), ["connect-resumed"]);
        assert_eq!(names(&["write-1"]), Vec::<&str>::new());
        assert_eq!(
            names(&[]).len(),
            ROWS.len() - 2,
            "the long ones are asked for"
        );
        assert_eq!(names(&["scale-1000"]), ["scale-1000"]);
    }
}
