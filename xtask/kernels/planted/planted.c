// SPDX-License-Identifier: GPL-2.0-only
/*
 * One mistake of each kind, made on purpose
 *
 * Why it exists: a run on the debug kernel without a complaint proves something
 * only if a mistake would have been complained about.  `cargo xtask splats`
 * inserts this module once per mistake and wants each run to fail.  What a
 * mistake leaks or breaks dies with the virtual machine.
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>
#include <linux/timer.h>

static char *mistake = "none";
module_param(mistake, charp, 0444);
MODULE_PARM_DESC(mistake, "which one to make");

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(spin);
static int __rcu *pointer;
static volatile int number = 4;

static void overrun(void)
{
	volatile char *p = kmalloc(16 * number, GFP_KERNEL);

	if (p)
		p[16 * number] = 1;
	kfree((void *)p);
}

static void freed(void)
{
	volatile char *p = kmalloc(64, GFP_KERNEL);

	kfree((void *)p);
	if (p)
		number = p[3];
}

static void leak(void)
{
	/* Stored nowhere, and overwritten where the call left it. */
	char *p = kmalloc(200, GFP_KERNEL);

	memset(p, 0x5a, 200);
	OPTIMIZER_HIDE_VAR(p);
	p = NULL;
	msleep(10);
}

static void shift(void)
{
	number = 1 << (number + 60);
}

static void bounds(void)
{
	static int array[4];

	array[number] = 1;
	number = array[number];
}

static void order(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

static void late(struct timer_list *timer)
{
	spin_lock(&spin);
	spin_unlock(&spin);
}

static DEFINE_TIMER(timer, late);

static void softirq(void)
{
	mod_timer(&timer, jiffies + 1);
	msleep(100);
	spin_lock(&spin);
	spin_unlock(&spin);
}

static void asleep(void)
{
	spin_lock(&spin);
	msleep(1);
	spin_unlock(&spin);
}

static void rcu(void)
{
	if (rcu_dereference(pointer))
		number = 5;
}

static void list(void)
{
	static LIST_HEAD(head);
	static struct list_head item;

	list_add(&item, &head);
	list_add(&item, &head);
}

static void refcount(void)
{
	refcount_t count = REFCOUNT_INIT(0);

	refcount_inc(&count);
}

static void object(void)
{
	struct timer_list *t = kzalloc(sizeof(*t), GFP_KERNEL);

	if (!t)
		return;
	timer_setup(t, late, 0);
	mod_timer(t, jiffies + 100 * HZ);
	kfree(t);
}

static void held(void)
{
	mutex_lock(&first);
}

static void warn(void)
{
	WARN_ON(number);
}

static void null(void)
{
	volatile int *nowhere = (void *)(unsigned long)(number - 4);

	number = *nowhere;
}

static void none(void)
{
	pr_info("nothing planted\n");
}

static const struct {
	const char *name;
	void (*make)(void);
} mistakes[] = {
	{ "overrun", overrun }, { "freed", freed }, { "leak", leak },
	{ "shift", shift }, { "bounds", bounds }, { "order", order },
	{ "softirq", softirq }, { "asleep", asleep }, { "rcu", rcu },
	{ "list", list }, { "refcount", refcount }, { "object", object },
	{ "held", held }, { "warn", warn }, { "null", null },
	{ "none", none },
};

static int __init planted_init(void)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(mistakes); i++) {
		if (strcmp(mistakes[i].name, mistake))
			continue;
		mistakes[i].make();
		return 0;
	}
	return -EINVAL;
}

static void __exit planted_exit(void)
{
	del_timer_sync(&timer);
}

module_init(planted_init);
module_exit(planted_exit);
MODULE_DESCRIPTION("mistakes made on purpose");
MODULE_LICENSE("GPL");
