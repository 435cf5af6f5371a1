/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * The marker: one instruction by which a program tells count.c where a measured region begins and
 * ends. It is a harmless load whose encoding carries a constant that no compiler emits by chance;
 * the address that it loads from carries the label. Without the plugin it is a load.
 */
#ifndef BENCH_MARK_H
#define BENCH_MARK_H

#define MARK_DISP 0x4b544c53
#define MARK_SPAN 0x10000

/* Labels: the sample's number, with MARK_END at its end. */
#define MARK_END 0x8000

#ifndef MARK_PLUGIN
static char mark_area[MARK_SPAN] __attribute__((aligned(MARK_SPAN)));

static inline void mark(unsigned int label)
{
	char byte;
	const char *at = mark_area + (label & (MARK_SPAN - 1)) - MARK_DISP;

	/* movb MARK_DISP(%rdi), %al: 8a 87 and the constant */
	__asm__ volatile("movb 0x4b544c53(%%rdi), %%al" : "=a"(byte) : "D"(at) : "memory");
}

static inline void mark_begin(unsigned int label)
{
	/* The page must be there: a fault would run the marker's block twice. */
	for (unsigned int at = 0; at < MARK_SPAN; at += 4096)
		*(volatile char *)(mark_area + at) = 0;
	mark(label);
}

static inline void mark_end(unsigned int label)
{
	mark(label | MARK_END);
}
#endif

#endif
