// SPDX-License-Identifier: GPL-2.0-only
/*
 * /proc/net/alg_tls_stat, counters per network namespace
 *
 * Why it exists: nobody else can prove that a record went through the kernel.
 * The form is that of mainline's /proc/net/tls_stat: a name and a value per
 * line; names are added at the end of their group and never change.
 *
 * Memory: one per-cpu array per namespace, freed with the namespace; an op
 * socket holds its namespace, so ctx->mib is good for the life of the op.
 */
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <net/netns/generic.h>

#include "alg_tls.h"

struct alg_tls_net {
	struct alg_tls_mib __percpu *mib;
};

static unsigned int alg_tls_net_id __read_mostly;

static const char * const alg_tls_stat_names[ALG_TLS_S_MAX] = {
	[ALG_TLS_S_CURRTX] = "AlgTlsCurrTx",
	[ALG_TLS_S_CURRRX] = "AlgTlsCurrRx",
	[ALG_TLS_S_TX] = "AlgTlsTx",
	[ALG_TLS_S_RX] = "AlgTlsRx",
	[ALG_TLS_S_TXRECORDS] = "AlgTlsTxRecords",
	[ALG_TLS_S_RXRECORDS] = "AlgTlsRxRecords",
	[ALG_TLS_S_TXBYTES] = "AlgTlsTxBytes",
	[ALG_TLS_S_RXBYTES] = "AlgTlsRxBytes",
	[ALG_TLS_S_TXCONTROL] = "AlgTlsTxControl",
	[ALG_TLS_S_RXCONTROL] = "AlgTlsRxControl",
	[ALG_TLS_S_TXREKEY] = "AlgTlsTxRekey",
	[ALG_TLS_S_RXREKEY] = "AlgTlsRxRekey",
	[ALG_TLS_S_TXDETACH] = "AlgTlsTxDetach",
	[ALG_TLS_S_RXDETACH] = "AlgTlsRxDetach",
	[ALG_TLS_S_SENDFILEBYTES] = "AlgTlsSendfileBytes",
	[ALG_TLS_S_RXSTAGED] = "AlgTlsRxStaged",
	[ALG_TLS_S_RXURGENT] = "AlgTlsRxUrgent",
	[ALG_TLS_S_OPS] = "AlgTlsOps",
	[ALG_TLS_S_ERRCONTROL] = "AlgTlsErrControl",
	[ALG_TLS_S_ERRKEY] = "AlgTlsErrNeedKey",
	[ALG_TLS_S_ERRTAG] = "AlgTlsErrBadTag",
	[ALG_TLS_S_ERRPROTO] = "AlgTlsErrBadRecord",
	[ALG_TLS_S_ERRLEN] = "AlgTlsErrLength",
	[ALG_TLS_S_ERRSTALE] = "AlgTlsErrStale",
	[ALG_TLS_S_ERRNOCLOSE] = "AlgTlsErrNoCloseNotify",
	[ALG_TLS_S_ERRCUT] = "AlgTlsErrTruncated",
	[ALG_TLS_S_ERRWRAP] = "AlgTlsErrSeqWrap",
	[ALG_TLS_S_ERRREUSE] = "AlgTlsErrKeyReuse",
	[ALG_TLS_S_ERRSHORT] = "AlgTlsErrHandOver",
};

struct alg_tls_mib __percpu *alg_tls_mib(struct net *net)
{
	struct alg_tls_net *tn = net_generic(net, alg_tls_net_id);

	return tn->mib;
}

static int alg_tls_stat_show(struct seq_file *seq, void *v)
{
	struct alg_tls_mib __percpu *mib = alg_tls_mib(seq->private);
	unsigned int i;
	int cpu;

	for (i = 0; i < ALG_TLS_S_MAX; i++) {
		u64 sum = 0;

		for_each_possible_cpu(cpu)
			sum += READ_ONCE(per_cpu_ptr(mib, cpu)->v[i]);
		seq_printf(seq, "%-32s%llu\n", alg_tls_stat_names[i], sum);
	}
	return 0;
}

static int __net_init alg_tls_net_init(struct net *net)
{
	struct alg_tls_net *tn = net_generic(net, alg_tls_net_id);

	tn->mib = alloc_percpu(struct alg_tls_mib);
	if (!tn->mib)
		return -ENOMEM;
	if (IS_ENABLED(CONFIG_PROC_FS) &&
	    !proc_create_net_single("alg_tls_stat", 0444, net->proc_net,
				    alg_tls_stat_show, NULL)) {
		free_percpu(tn->mib);
		return -ENOMEM;
	}
	return 0;
}

static void __net_exit alg_tls_net_exit(struct net *net)
{
	struct alg_tls_net *tn = net_generic(net, alg_tls_net_id);

	remove_proc_entry("alg_tls_stat", net->proc_net);
	free_percpu(tn->mib);
}

static struct pernet_operations alg_tls_net_ops = {
	.init = alg_tls_net_init,
	.exit = alg_tls_net_exit,
	.id = &alg_tls_net_id,
	.size = sizeof(struct alg_tls_net),
};

int alg_tls_stat_init(void)
{
	return register_pernet_subsys(&alg_tls_net_ops);
}

void alg_tls_stat_exit(void)
{
	unregister_pernet_subsys(&alg_tls_net_ops);
}
