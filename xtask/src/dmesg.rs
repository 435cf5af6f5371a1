// SPDX-License-Identifier: MIT OR Apache-2.0
//! Judges a kernel log: a run in which the kernel complained has failed, whatever the job returned.

use std::sync::LazyLock;

use regex::Regex;

static COMPLAINT: LazyLock<Regex> = LazyLock::new(|| {
    let patterns = [
        r"\bWARNING: ",
        r"\bBUG: ",
        // SLUB's: "BUG kmalloc-64 (Not tainted): Poison overwritten"
        r"\bBUG \S+ \(",
        r"kernel BUG at",
        r"\bOops\b",
        r"Kernel panic",
        r"[Gg]eneral protection fault, ",
        r"unable to handle",
        r"\bKASAN\b.*(bug|in) ",
        r"\bUBSAN: ",
        r"\bKFENCE: ",
        r"\[kmemleak\] unreferenced object",
        r"kmemleak: .*(suspected|disabled|[Cc]annot allocate|pool empty)",
        r"refcount_t: ",
        r"ref_tracker: .*has .*users|leaked reference",
        r"\bODEBUG: ",
        r"INFO: task .* blocked for",
        r"possible (circular|recursive|irq lock inversion|deadlock)",
        r"inconsistent lock state",
        r"suspicious RCU usage",
        r"lock held when returning to user space",
        r"still has locks held",
        r"[Ss]leeping function called",
        r"scheduling while atomic",
        r"bad unlock balance",
        r"trying to register non-static key",
        r"turning off the locking correctness validator",
        r"held lock freed|nested lock was not taken|invalid wait context",
        r"self-detected stall|detected stalls|detected expedited stalls",
        r"soft lockup|hard LOCKUP",
        r"unregister_netdevice: waiting",
        r"Attempt to release alive",
        r"list_(add|del) (corruption|double add)",
        r"\bINFO: (rcu|task|trying|suspicious)",
        r"VM_BUG_ON|page dumped because|Bad page",
        r"invalid opcode: |divide error: |stack segment: |double fault: ",
        r"stack-protector|corrupted stack end",
        r"Module has invalid ELF|Unknown symbol",
        r"kernel log overran",
    ];
    Regex::new(&patterns.join("|")).expect("fixed patterns")
});

/// Lines that complain about the emulated machine, not about what runs on it.
static HARMLESS: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"KASLR|Spectre|MDS|unprivileged eBPF|KernelAddressSanitizer initialized")
        .expect("fixed patterns")
});

/// The complaints, each with up to `context` lines that follow it.
pub fn complaints(log: &str, context: usize) -> Vec<&str> {
    let mut shown = Vec::new();
    let mut left = 0;
    for line in log.lines() {
        if COMPLAINT.is_match(line) && !HARMLESS.is_match(line) {
            left = context + 1;
        }
        if left > 0 {
            shown.push(line);
            left -= 1;
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::complaints;

    #[test]
    fn a_quiet_log_has_none() {
        let log = "[    0.1] Linux version 6.1\n[    1.0] algif_tls: loading out-of-tree module taints kernel.";
        assert!(complaints(log, 3).is_empty());
        // A program that crashes is the program's affair.
        assert!(complaints("traps: a[1] general protection fault ip:0", 3).is_empty());
        assert!(complaints("a[12]: segfault at 0 ip 0", 3).is_empty());
    }

    #[test]
    fn a_warning_comes_with_its_context() {
        let log = "a\n[ 2.0] WARNING: CPU: 0 PID: 1 at kmod/x.c:3 f+0x1/0x2\nb\nc\nd";
        assert_eq!(complaints(log, 2).len(), 3);
        for line in [
            "BUG: KASAN: use-after-free in f+0x1/0x2",
            "BUG: kernel NULL pointer dereference, address: 0",
            "Oops: 0002 [#1] PREEMPT SMP NOPTI",
            "rcu: INFO: rcu_preempt self-detected stall on CPU",
            "WARNING: possible circular locking dependency detected",
            "general protection fault, probably for non-canonical address 0x1: 0000 [#1]",
            "refcount_t: underflow; use-after-free.",
            "BUG kmalloc-64 (Tainted: G  O): Poison overwritten",
            "[kmemleak] unreferenced object 0xffff888004c1ae00 (size 64):",
            "kmemleak: Kernel memory leak detector disabled",
            "ODEBUG: free active (active state 0) object type: timer_list hint: f+0x0/0x1",
            "UBSAN: shift-out-of-bounds in kmod/x.c:3:4",
            "WARNING: suspicious RCU usage",
            "WARNING: inconsistent lock state",
            "BUG: sleeping function called from invalid context at mm/slab.h:1",
            "BUG: MAX_LOCKDEP_CHAINS too low!",
            "INFO: task a:12 blocked for more than 120 seconds.",
            "list_add corruption. prev->next should be next",
            "list_add double add: new=ffffffffa0003200, prev=ffffffffa0002020",
        ] {
            assert_eq!(complaints(line, 0), [line]);
        }
    }
}
