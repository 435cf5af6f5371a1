// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * QEMU plugin: what a marked region of the guest executes and moves.
 *
 * Every translated block adds its number of instructions to one of two counters, user or kernel, told
 * apart by the address. A marker (mark.h) reads the counters; at a region's end one line goes to the
 * file OUT. With bytes=on every load and store adds its size; with profile=on each block also counts
 * its runs, and at the end of a region those that ran are written to OUT.LABEL.
 *
 * One virtual CPU (-icount), so nothing here is shared. Blocks are never freed: QEMU may run an old
 * translation until it flushes, and a translation made anew finds its block again by address.
 *
 * Debian ships QEMU without the header of its plugin interface (version 1, public and stable); the
 * few declarations needed stand here.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MARK_PLUGIN
#include "mark.h"

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;

enum { NO_REGS = 0 };
enum { INLINE_ADD_U64 = 0 };
/* Not MEM_READ alone: QEMU 7.2 then never calls back. */
enum { MEM_BOTH = 3 };

typedef void (*mem_cb)(unsigned int cpu, uint32_t info, uint64_t vaddr, void *data);

void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*cb)(plugin_id id,
								    struct qemu_plugin_tb *tb));
void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *tb, int op, void *ptr,
					      uint64_t imm);
void qemu_plugin_register_vcpu_mem_cb(struct qemu_plugin_insn *insn, mem_cb cb, int flags, int rw,
				      void *data);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb, size_t at);
const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *insn);
size_t qemu_plugin_insn_size(const struct qemu_plugin_insn *insn);
unsigned int qemu_plugin_mem_size_shift(uint32_t info);
bool qemu_plugin_mem_is_store(uint32_t info);

EXPORT int qemu_plugin_version = 1;
EXPORT int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv);

/* What is counted, user and kernel. */
struct counts {
	uint64_t insns[2];
	uint64_t load[2];
	uint64_t store[2];
};

static struct counts now, begun;

struct block {
	struct block *next;
	uint64_t vaddr;
	uint64_t n;
	uint64_t runs;
	uint64_t at_begin;
};

#define BUCKETS (1 << 18)
static struct block *blocks[BUCKETS];

static bool count_bytes, profile;
static const char *out_path;
static FILE *out;

static struct block *block_of(uint64_t vaddr, uint64_t n)
{
	uint64_t slot = ((vaddr ^ (vaddr >> 18)) * 0x9e3779b97f4a7c15ULL + n) >> 46;
	struct block **head = &blocks[slot % BUCKETS];
	struct block *block;

	for (block = *head; block; block = block->next)
		if (block->vaddr == vaddr && block->n == n)
			return block;
	block = calloc(1, sizeof(*block));
	if (!block)
		abort();
	block->vaddr = vaddr;
	block->n = n;
	block->next = *head;
	*head = block;
	return block;
}

static void write_profile(unsigned int label)
{
	char path[4096];
	FILE *file;

	snprintf(path, sizeof(path), "%s.%u", out_path, label);
	file = fopen(path, "we");
	if (!file) {
		perror(path);
		return;
	}
	for (size_t i = 0; i < BUCKETS; i++)
		for (struct block *b = blocks[i]; b; b = b->next)
			if (b->runs != b->at_begin)
				fprintf(file, "%llx %llu\n", (unsigned long long)b->vaddr,
					(unsigned long long)((b->runs - b->at_begin) * b->n));
	fclose(file);
}

static void begin(void)
{
	if (profile)
		for (size_t i = 0; i < BUCKETS; i++)
			for (struct block *b = blocks[i]; b; b = b->next)
				b->at_begin = b->runs;
	begun = now;
}

static void end(unsigned int label)
{
	struct counts then = now;

	fprintf(out, "%u", label);
	for (int mode = 0; mode < 2; mode++)
		fprintf(out, " %llu %llu %llu",
			(unsigned long long)(then.insns[mode] - begun.insns[mode]),
			(unsigned long long)(then.load[mode] - begun.load[mode]),
			(unsigned long long)(then.store[mode] - begun.store[mode]));
	fputc('\n', out);
	if (profile)
		write_profile(label);
}

static void on_mark(unsigned int cpu, uint32_t info, uint64_t vaddr, void *data)
{
	unsigned int label = vaddr & (MARK_SPAN - 1);

	(void)cpu, (void)info, (void)data;
	if (label & MARK_END)
		end(label & ~MARK_END);
	else
		begin();
}

static void on_access(unsigned int cpu, uint32_t info, uint64_t vaddr, void *data)
{
	uint64_t size = 1ULL << qemu_plugin_mem_size_shift(info);
	int mode = (int)(intptr_t)data;

	(void)cpu, (void)vaddr;
	if (qemu_plugin_mem_is_store(info))
		now.store[mode] += size;
	else
		now.load[mode] += size;
}

static bool is_mark(const struct qemu_plugin_insn *insn)
{
	static const uint8_t code[] = { 0x8a, 0x87, MARK_DISP & 0xff, MARK_DISP >> 8 & 0xff,
					MARK_DISP >> 16 & 0xff, MARK_DISP >> 24 };

	return qemu_plugin_insn_size(insn) == sizeof(code) &&
	       !memcmp(qemu_plugin_insn_data(insn), code, sizeof(code));
}

static void on_translate(plugin_id id, struct qemu_plugin_tb *tb)
{
	uint64_t vaddr = qemu_plugin_tb_vaddr(tb);
	size_t n = qemu_plugin_tb_n_insns(tb);
	int mode = vaddr >> 63;

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64, &now.insns[mode], n);
	if (profile)
		qemu_plugin_register_vcpu_tb_exec_inline(tb, INLINE_ADD_U64,
							 &block_of(vaddr, n)->runs, 1);
	for (size_t i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);

		if (!mode && is_mark(insn))
			qemu_plugin_register_vcpu_mem_cb(insn, on_mark, NO_REGS, MEM_BOTH, NULL);
		else if (count_bytes)
			qemu_plugin_register_vcpu_mem_cb(insn, on_access, NO_REGS, MEM_BOTH,
							 (void *)(intptr_t)mode);
	}
}

int qemu_plugin_install(plugin_id id, const void *info, int argc, char **argv)
{
	(void)info;
	for (int i = 0; i < argc; i++) {
		if (!strncmp(argv[i], "out=", 4))
			out_path = argv[i] + 4;
		else if (!strcmp(argv[i], "bytes=on"))
			count_bytes = true;
		else if (!strcmp(argv[i], "profile=on"))
			profile = true;
	}
	out = out_path ? fopen(out_path, "we") : NULL;
	if (!out) {
		perror(out_path ? out_path : "count: no out=FILE");
		return -1;
	}
	/* Whole lines: the guest reads the file while it runs. */
	setvbuf(out, NULL, _IOLBF, 0);
	qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
	return 0;
}
