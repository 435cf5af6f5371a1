// SPDX-License-Identifier: MIT OR Apache-2.0
//! `/proc/net/alg_tls_stat` of the calling thread's network namespace.

use std::collections::BTreeMap;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, i64>);

impl Counters {
    pub fn read() -> Counters {
        let text = std::fs::read_to_string("/proc/thread-self/net/alg_tls_stat")
            .expect("/proc/net/alg_tls_stat");
        Counters::parse(&text)
    }

    fn parse(text: &str) -> Counters {
        let line = |l: &str| {
            let mut words = l.split_whitespace();
            let name = words.next().expect("name").to_owned();
            let value = words.next().and_then(|v| v.parse().ok());
            assert_eq!(words.next(), None, "name and value only: {l}");
            (name, value.unwrap_or_else(|| panic!("no number: {l}")))
        };
        Counters(text.lines().map(line).collect())
    }

    pub fn get(&self, name: &str) -> i64 {
        *self
            .0
            .get(name)
            .unwrap_or_else(|| panic!("no counter {name} in {:?}", self.0))
    }

    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How much `name` grew since `before`.
    pub fn since(&self, before: &Counters, name: &str) -> i64 {
        self.get(name) - before.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::Counters;

    #[test]
    fn reads_names_and_numbers() {
        let c = Counters::parse("AlgTlsCurrTx   \t0\nAlgTlsTxRecords\t17\n");
        assert_eq!((c.get("AlgTlsCurrTx"), c.get("AlgTlsTxRecords")), (0, 17));
    }

    #[test]
    #[should_panic(expected = "no counter")]
    fn an_unknown_name_is_an_error() {
        Counters::parse("A 1\n").get("B");
    }
}
