#include "disk/co.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>

#define GUARD 4096u

static void push(struct co_queue *q, struct co *c)
{
	if (!q->first)
		q->last = &q->first;
	c->next = NULL;
	*q->last = c;
	q->last = &c->next;
}

static struct co *pop(struct co_queue *q)
{
	struct co *c = q->first;

	if (c)
		q->first = c->next;
	return c;
}

/*
 * Saves what a function must preserve (System V psABI for x86-64, section 3.2.1) on the stack that is left, and takes it from the other one. MXCSR and the
 * x87 control word are the same on both.
 */
__attribute__((naked, noinline)) static void switch_stack(void **from, void *to)
{
	__asm__("push %rbp; push %rbx; push %r12; push %r13; push %r14; push %r15\n\t"
		"mov %rsp, (%rdi)\n\t"
		"mov %rsi, %rsp\n\t"
		"pop %r15; pop %r14; pop %r13; pop %r12; pop %rbx; pop %rbp\n\t"
		"ret");
}

/* The first that runs on a new stack; called by start_stack() below. */
__attribute__((used, noreturn)) static void entry(struct co *c)
{
	for (;;) {
		c->fn(c->arg);
		c->ended = true;
		switch_stack(&c->sp, c->sched->base);
	}
}

__attribute__((naked)) static void start_stack(void)
{
	__asm__("mov %%rbx, %%rdi; xor %%ebp, %%ebp; call %P0" : : "i"(entry));
}

/* What switch_stack() finds on it: six registers, of which rbx says whose it is, and where to go. */
static void *prepare_stack(struct co *c)
{
	uintptr_t *top = (uintptr_t *)(void *)((char *)c->stack + GUARD + CO_STACK);

	top[-1] = (uintptr_t)start_stack;
	top[-3] = (uintptr_t)c;
	return top - 7;
}

static struct co *make(struct co_sched *s)
{
	struct co *c = s->kept;

	if (c) {
		s->kept = c->next;
		s->nkept--;
		c->ended = false;
		return c;
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->stack = mmap(NULL, CO_STACK + GUARD, PROT_READ | PROT_WRITE,
		MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (c->stack == MAP_FAILED || mprotect(c->stack, GUARD, PROT_NONE)) {
		if (c->stack != MAP_FAILED)
			munmap(c->stack, CO_STACK + GUARD);
		free(c);
		return NULL;
	}
	c->sched = s;
	c->sp = prepare_stack(c);
	return c;
}

static void drop(struct co *c)
{
	munmap(c->stack, CO_STACK + GUARD);
	free(c);
}

static void retire(struct co_sched *s, struct co *c)
{
	if (s->nkept == CO_KEEP) {
		drop(c);
		return;
	}
	c->next = s->kept;
	s->kept = c;
	s->nkept++;
}

/* From the loop's stack: runs it, and what becomes ready by that, until all of them wait. */
static void run(struct co_sched *s, struct co *c)
{
	for (; c; c = pop(&s->ready)) {
		s->current = c;
		switch_stack(&s->base, c->sp);
		s->current = NULL;
		if (c->ended) {
			void (*after)(void *) = c->after;
			void *arg = c->arg;

			retire(s, c);
			if (after)
				after(arg);
		}
	}
}

int co_start(struct co_sched *s, void (*fn)(void *), void (*after)(void *), void *arg)
{
	struct co *c = make(s);

	if (!c)
		return -ENOMEM;
	c->fn = fn;
	c->after = after;
	c->arg = arg;
	co_wake(c);
	return 0;
}

void co_wake(struct co *c)
{
	struct co_sched *s = c->sched;

	if (s->current)
		push(&s->ready, c);
	else
		run(s, c);
}

void co_wait(struct co_sched *s)
{
	switch_stack(&s->current->sp, s->base);
}

void co_queue_wait(struct co_sched *s, struct co_queue *q)
{
	push(q, s->current);
	co_wait(s);
}

void co_queue_wake_all(struct co_queue *q)
{
	struct co *c = q->first, *next;

	q->first = NULL;
	for (; c; c = next) {
		next = c->next;
		co_wake(c);
	}
}

void co_lock(struct co_sched *s, struct co_mutex *m)
{
	if (m->held)
		co_queue_wait(s, &m->waiters);
	else
		m->held = true;
}

/* Handed over to who waits longest: `held` stays. */
void co_unlock(struct co_mutex *m)
{
	struct co *c = pop(&m->waiters);

	if (c)
		co_wake(c);
	else
		m->held = false;
}

void co_sched_destroy(struct co_sched *s)
{
	while (s->kept) {
		struct co *c = s->kept;

		s->kept = c->next;
		drop(c);
	}
}
