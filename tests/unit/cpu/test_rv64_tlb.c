/*
 * The tagged TLB: what it keeps and what it forgets. A page-table entry is changed in memory behind the TLB's back; whether the old or the
 * new page answers shows which.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/util.h"
#include "bare.h"

#define V BIT(0)
#define R BIT(1)
#define W BIT(2)
#define X BIT(3)
#define U BIT(4)
#define G BIT(5)
#define A BIT(6)
#define D BIT(7)
#define PTE(pa, bits) ((uint64_t)(pa) >> 12 << 10 | (bits))
#define RW (V | R | W | A | D)
#define RWX (RW | X)

/* Tables of space i; page n of it lies at PAGE(i, n) and holds its own address. */
#define ROOT(i) (RAM + 0x100000 + (i)*0x3000ull)
#define MID(i) (ROOT(i) + 0x1000)
#define LOW(i) (ROOT(i) + 0x2000)
#define PAGE(i, n) (RAM + 0x400000 + ((i)*16 + (n)) * 0x1000ull)
#define VA(n) (0x40000000ull + (n)*0x1000ull)
#define SATP(i, asid) (8ull << 60 | (uint64_t)(asid) << 44 | ROOT(i) >> 12)
#define LD (3 << 12 | 3 | 5 << 7 | 6 << 15)
#define SD (3 << 12 | 0x23 | 6 << 15 | 7 << 20)
#define SPACES 40

static void set_pte(struct bare *b, unsigned i, unsigned n, uint64_t pa, uint64_t bits)
{
	bare_put64(b, LOW(i) + n * 8, PTE(pa, bits));
}

static struct bare *spaces(uint64_t bits)
{
	struct bare *b = bare_new(1, false);

	b->h->c.pmpaddr[0] = BIT(54) - 1;
	b->h->c.pmpcfg[0] = 0x1f;
	pmp_update(b->h);
	b->h->c.menvcfg = MENVCFG_ADUE;
	for (unsigned i = 0; i < SPACES; i++) {
		bare_put64(b, ROOT(i) + 8, PTE(MID(i), V));
		bare_put64(b, ROOT(i) + 2 * 8, PTE(RAM, RWX | G)); /* code, as it is */
		bare_put64(b, MID(i), PTE(LOW(i), V));
		for (unsigned n = 0; n < 16; n++) {
			bare_put64(b, PAGE(i, n), PAGE(i, n));
			set_pte(b, i, n, PAGE(i, n), RW | bits);
		}
	}
	return b;
}

/* Without the flushes of bare_satp(). */
static void enter(struct bare *b, unsigned i, unsigned asid)
{
	bare_csr_write(b, 0x180, SATP(i, asid));
	assert_int_equal(b->h->c.satp, SATP(i, asid));
}

/* What S-mode reads there; 1: a trap. */
static uint64_t get(struct bare *b, uint64_t va)
{
	b->h->x[6] = va;
	b->h->x[5] = 0;
	return bare_one(b, PRIV_S, LD) == -1 ? b->h->x[5] : 1;
}

static void put(struct bare *b, uint64_t va, uint64_t v)
{
	b->h->x[6] = va;
	b->h->x[7] = v;
	assert_int_equal(bare_one(b, PRIV_S, SD), -1);
}

static void sfence(struct bare *b, const uint64_t *va, const uint64_t *asid)
{
	b->h->x[6] = va ? *va : 0;
	b->h->x[7] = asid ? *asid : 0;
	assert_int_equal(bare_one(b, PRIV_S, enc(RV_sfence_vma, 0, va ? 6 : 0, asid ? 7 : 0)), -1);
}

static void satp_keeps_entries(void **state)
{
	struct bare *b = spaces(0);

	b->h->mstatus |= MSTATUS_SUM; /* tables of a space; without SUM there is one for all */
	enter(b, 1, 1);
	assert_int_equal(get(b, VA(3)), PAGE(1, 3));
	enter(b, 2, 2);
	assert_int_equal(get(b, VA(3)), PAGE(2, 3));
	set_pte(b, 1, 3, PAGE(1, 4), RW);
	enter(b, 1, 1);
	assert_int_equal(get(b, VA(3)), PAGE(1, 3)); /* kept */
	/* another table under the same ASID is another space here */
	enter(b, 2, 1);
	assert_int_equal(get(b, VA(3)), PAGE(2, 3));
	enter(b, 1, 1);
	sfence(b, NULL, NULL);
	assert_int_equal(get(b, VA(3)), PAGE(1, 4));
	bare_free(b);
}

/* One table serves S-mode in all spaces: what is not global must not be seen in the next. */
static void supervisor_sees_its_own_space(void **state)
{
	struct bare *b = spaces(0);

	for (unsigned sum = 0; sum < 2; sum++) {
		b->h->mstatus = sum ? MSTATUS_SUM : 0;
		for (unsigned turn = 0; turn < 2; turn++)
			for (unsigned i = 0; i < SPACES; i++) {
				enter(b, i, i);
				assert_int_equal(get(b, VA(5)), PAGE(i, 5));
				put(b, VA(5) + 8, i);
				assert_int_equal(bare_get64(b, PAGE(i, 5) + 8), i);
			}
	}
	/* bare, then back */
	enter(b, 3, 3);
	assert_int_equal(get(b, VA(6)), PAGE(3, 6));
	bare_csr_write(b, 0x180, 0);
	assert_int_equal(get(b, PAGE(7, 1)), PAGE(7, 1));
	enter(b, 3, 3);
	assert_int_equal(get(b, PAGE(7, 1)), PAGE(7, 1)); /* code's gigapage */
	assert_int_equal(get(b, VA(6)), PAGE(3, 6));
	bare_free(b);
}

static void global_entries_are_shared(void **state)
{
	struct bare *b = spaces(G);
	uint64_t asid = 1;

	enter(b, 1, 1);
	assert_int_equal(get(b, VA(3)), PAGE(1, 3));
	enter(b, 2, 2);
	/* tables that do not agree about a global page: that the first answers shows that one entry serves both */
	assert_int_equal(get(b, VA(3)), PAGE(1, 3));
	sfence(b, NULL, &asid);
	assert_int_equal(get(b, VA(3)), PAGE(1, 3));
	asid = 2;
	sfence(b, &(uint64_t){VA(3)}, NULL);
	assert_int_equal(get(b, VA(3)), PAGE(2, 3));
	bare_free(b);
}

static void sfence_drops_what_it_names(void **state)
{
	struct bare *b = spaces(0);
	uint64_t va = VA(3), asid = 1;

	b->h->mstatus |= MSTATUS_SUM;
	for (unsigned turn = 0; turn < 4; turn++) {
		for (unsigned i = 1; i < 3; i++) {
			enter(b, i, i);
			sfence(b, NULL, NULL);
			for (unsigned n = 3; n < 5; n++)
				set_pte(b, i, n, PAGE(i, n), RW);
		}
		for (unsigned i = 1; i < 3; i++) {
			enter(b, i, i);
			for (unsigned n = 3; n < 5; n++) {
				assert_int_equal(get(b, VA(n)), PAGE(i, n));
				put(b, VA(n), PAGE(i, n));
				set_pte(b, i, n, PAGE(i, n + 5), RW);
			}
		}
		/* from space 2: address 3, address 3 of space 1, space 1, everything */
		sfence(b, turn < 2 ? &va : NULL, turn == 1 || turn == 2 ? &asid : NULL);
		for (unsigned i = 1; i < 3; i++) {
			enter(b, i, i);
			for (unsigned n = 3; n < 5; n++) {
				bool gone = (turn == 0 && n == 3) ||
					    (turn == 1 && n == 3 && i == 1) ||
					    (turn == 2 && i == 1) || turn == 3;

				assert_int_equal(get(b, VA(n)), PAGE(i, gone ? n + 5 : n));
				/* the write side too */
				put(b, VA(n) + 16, 100 + turn);
				assert_int_equal(
					bare_get64(b, PAGE(i, gone ? n + 5 : n) + 16), 100 + turn);
				bare_put64(b, PAGE(i, gone ? n + 5 : n) + 16, 0);
			}
		}
	}
	bare_free(b);
}

/* Entries of a large page lie apart; an address anywhere in it names them all. */
static void large_pages(void **state)
{
	static const struct {
		uint64_t va, other; /* inside the same leaf, where nothing was accessed */
		unsigned level;
	} t[] = {{0x40203000, 0x403ff000, 1}, {0x40203000, 0x40200000, 1},
		{0xc0405000, 0xffffe000, 2}, {0xc0405000, 0xc0000000, 2}};
	struct bare *b = spaces(0);

	for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
		uint64_t slot = t[i].level == 1 ? MID(1) + 8 : ROOT(1) + 3 * 8;
		uint64_t in = t[i].va & ((1ull << (12 + 9 * t[i].level)) - 1);
		uint64_t pa = t[i].level == 1 ? RAM + 0x600000 : RAM;

		b->h->mstatus = i & 1 ? MSTATUS_SUM : 0;
		enter(b, 1, 1);
		bare_put64(b, pa + in, 0x77);
		bare_put64(b, slot, PTE(pa, RW));
		sfence(b, NULL, NULL);
		assert_int_equal(get(b, t[i].va), 0x77);
		assert_int_equal(get(b, VA(2)), PAGE(1, 2));
		put(b, t[i].va + 8, 1);
		bare_put64(b, slot, 0);
		set_pte(b, 1, 2, PAGE(1, 9), RW);
		/* an address elsewhere */
		sfence(b, &(uint64_t){0x100000000}, NULL);
		assert_int_equal(get(b, t[i].va), 0x77);
		sfence(b, &(uint64_t){t[i].other}, NULL);
		assert_int_equal(get(b, t[i].va), 1);
		b->h->x[6] = t[i].va;
		assert_int_equal(bare_one(b, PRIV_S, SD), 15);
		assert_int_equal(get(b, VA(2)), PAGE(1, 2)); /* of a small one: kept */
		set_pte(b, 1, 2, PAGE(1, 2), RW);
	}
	bare_free(b);
}

/* One walk serves all of a large page, for reading and, once D is set, for writing; what it does not allow faults as ever. */
static void large_pages_are_walked_once(void **state)
{
	struct bare *b = spaces(0);
	uint64_t walks;

	b->h->mstatus = MSTATUS_SUM;
	bare_put64(b, MID(1) + 8, PTE(RAM + 0x600000, V | R | W));
	for (unsigned n = 0; n < 8; n++)
		bare_put64(b, RAM + 0x600000 + n * PAGE_SIZE, n + 100);
	enter(b, 1, 1);
	put(b, 0x40200000, 100);
	walks = b->h->stats.page_walks;
	for (unsigned n = 0; n < 4; n++)
		assert_int_equal(get(b, 0x40200000 + n * PAGE_SIZE), n + 100);
	for (unsigned n = 4; n < 8; n++)
		put(b, 0x40200000 + n * PAGE_SIZE, n);
	assert_int_equal(bare_get64(b, RAM + 0x607000), 7);
	assert_int_equal(b->h->stats.page_walks, walks);
	/* Read-only, and not written to before. */
	bare_put64(b, MID(1) + 8, PTE(RAM + 0x600000, V | R | A));
	sfence(b, &(uint64_t){0x40200000}, NULL);
	assert_int_equal(get(b, 0x40203000), 103);
	b->h->x[6] = 0x40204000;
	assert_int_equal(bare_one(b, PRIV_S, SD), 15);
	bare_put64(b, MID(1) + 8, PTE(RAM + 0x600000, V | R | W | A));
	put(b, 0x40205000, 1);
	assert_true(bare_get64(b, MID(1) + 8) & D);
	bare_free(b);
}

/* A table remembers its first entries to be emptied by; more than that, and all of it is. */
static void many_entries(void **state)
{
	struct bare *b = spaces(0);
	unsigned sizes[] = {1, TLB_USED - 1, TLB_USED, TLB_USED + 1, 500};

	enter(b, 1, 1);
	for (unsigned k = 0; k < ARRAY_SIZE(sizes); k++) {
		unsigned n = sizes[k];

		sfence(b, NULL, NULL);
		for (unsigned i = 0; i < n; i++)
			set_pte(b, 1, 16 + i % 496, PAGE(1, i % 16), RW);
		for (unsigned i = 0; i < n; i++)
			get(b, VA(16 + i % 496));
		for (unsigned i = 0; i < n; i++)
			set_pte(b, 1, 16 + i % 496, 0, 0);
		assert_int_not_equal(get(b, VA(16)), 1); /* nothing was forgotten without need */
		sfence(b, NULL, NULL);
		for (unsigned i = 0; i < n; i++)
			assert_int_equal(get(b, VA(16 + i % 496)), 1);
	}
	bare_free(b);
}

static void execute_only_needs_mxr(void **state)
{
	struct bare *b = spaces(0);

	enter(b, 1, 1);
	set_pte(b, 1, 3, PAGE(1, 3), V | X | A | D);
	sfence(b, NULL, NULL);
	for (unsigned i = 0; i < 3; i++) {
		assert_int_equal(get(b, VA(3)), 1);
		b->h->mstatus |= MSTATUS_MXR;
		assert_int_equal(get(b, VA(3)), PAGE(1, 3));
		b->h->mstatus &= ~MSTATUS_MXR;
	}
	bare_free(b);
}

/* Permissions that differ by mode must not leak from one table to another. */
static void modes_are_apart(void **state)
{
	struct bare *b = spaces(U);

	enter(b, 1, 1);
	bare_put64(b, ROOT(1) + 2 * 8, PTE(RAM, RWX | G));
	b->h->mstatus = MSTATUS_SUM;
	assert_int_equal(get(b, VA(3)), PAGE(1, 3));
	b->h->mstatus = 0;
	assert_int_equal(get(b, VA(3)), 1);
	b->h->mstatus = MSTATUS_SUM;
	assert_int_equal(get(b, VA(3)), PAGE(1, 3));
	bare_free(b);
}

/* What another hart asks for, by SBI or to watch a page: that, and no more, until there is too much to remember. */
static void others_ask(void **state)
{
	struct bare *b = spaces(0);
	struct rv64_vm *vm = (struct rv64_vm *)b->vm;

	b->h->mstatus |= MSTATUS_SUM;
	for (unsigned turn = 0; turn < 7; turn++) {
		enter(b, 1, 1);
		sfence(b, NULL, NULL);
		for (unsigned n = 0; n < 5; n++) {
			set_pte(b, 1, n, PAGE(1, n), RW);
			assert_int_equal(get(b, VA(n)), PAGE(1, n));
			set_pte(b, 1, n, PAGE(1, n + 5), RW);
		}
		switch (turn) {
		case 0: /* bytes of two pages */
			rv64_fence_others(vm, NULL, NULL, VA(2) - 1, 2, UINT64_MAX);
			break;
		case 1:
			rv64_fence_others(vm, NULL, NULL, VA(1), 0x2000, 1);
			break;
		case 2:
			rv64_fence_others(vm, NULL, NULL, VA(1), 0x2000, 2);
			break;
		case 3:
			rv64_fence_others(vm, NULL, NULL, 0, 0, 1);
			break;
		case 4:
			rv64_fence_others(vm, NULL, NULL, VA(100), 1ull << 30, UINT64_MAX);
			break;
		case 5: /* more than a list holds */
			for (unsigned i = 0; i <= RV64_ASKS; i++)
				rv64_fence_others(vm, NULL, NULL, VA(100), 1, UINT64_MAX);
			break;
		}
		for (unsigned n = 0; n < 5; n++) {
			bool gone = turn < 2 ? n == 1 || n == 2 : turn > 2 && turn < 6;

			assert_int_equal(get(b, VA(n)), PAGE(1, gone ? n + 5 : n));
		}
	}
	bare_free(b);
}

static const struct tlb_entry *write_entry(struct bare *b, uint64_t va)
{
	return &b->h->cur->w[(va >> 12) % TLB_SIZE];
}

static void others_watch_pages(void **state)
{
	struct bare *b = spaces(0);
	struct rv64_vm *vm = (struct rv64_vm *)b->vm;
	struct space_page pg;
	uint64_t first, last;

	b->h->mstatus |= MSTATUS_SUM;
	set_pte(b, 1, 3, PAGE(1, 1), RW); /* under a second address */
	enter(b, 1, 1);
	for (unsigned n = 1; n < 4; n++)
		put(b, VA(n), 1);
	rv64_set_priv(b->h, PRIV_S);
	for (unsigned n = 1; n < 4; n++)
		assert_int_equal(write_entry(b, VA(n))->tag, VA(n));
	assert_int_equal(space_page(b->space, 0, gpa(PAGE(1, 1)), MEM_READ, &pg), 0);
	first = rv64_ask_no_writes(vm, NULL, pg.host);
	assert_true(b->h->j.w_flushed < first);
	last = rv64_ask_no_writes(vm, NULL, pg.host);
	assert_int_equal(last, first + 1);
	rv64_serve_poll(b->h);
	assert_int_equal(b->h->j.w_flushed, last);
	assert_int_equal(write_entry(b, VA(1))->tag, UINT64_MAX);
	assert_int_equal(write_entry(b, VA(2))->tag, VA(2));
	assert_int_equal(write_entry(b, VA(3))->tag, UINT64_MAX);
	for (unsigned i = 0; i <= RV64_ASKS; i++)
		rv64_ask_no_writes(vm, NULL, (char *)pg.host + 0x8000);
	rv64_serve_poll(b->h);
	assert_int_equal(write_entry(b, VA(2))->tag, UINT64_MAX);
	assert_int_equal(b->h->cur->r[(VA(2) >> 12) % TLB_SIZE].tag, VA(2)); /* reading goes on */
	bare_free(b);
}

/* The last-level table that a walk found is remembered; fences that may be about it forget it. */
static void tables_move(void **state)
{
	struct bare *b = spaces(0);
	uint64_t va = VA(4), asid = 1;

	b->h->mstatus |= MSTATUS_SUM;
	for (unsigned turn = 0; turn < 4; turn++) {
		enter(b, 1, 1);
		bare_put64(b, MID(1), PTE(LOW(1), V));
		sfence(b, NULL, NULL);
		assert_int_equal(get(b, VA(3)), PAGE(1, 3));
		bare_put64(b, MID(1), PTE(LOW(2), V));
		if (turn == 3)
			enter(b, 3, 1); /* another root: nothing of the first serves it */
		else
			sfence(b, turn == 0 ? &va : NULL, turn == 1 ? &asid : NULL);
		assert_int_equal(get(b, VA(4)), turn == 3 ? PAGE(3, 4) : PAGE(2, 4));
	}
	bare_free(b);
}

static void count_write(void *ctx, gpa_t page, const void *host)
{
	++*(unsigned *)ctx;
}

/* A read of a page that may be written makes a write entry too, unless somebody wants to hear of the write. */
static void reads_make_write_entries(void **state)
{
	struct bare *b = spaces(0);
	unsigned heard = 0;
	struct tracker_ops ops = {.before = count_write, .ctx = &heard};
	struct tracker *t;

	b->h->mstatus |= MSTATUS_SUM;
	set_pte(b, 1, 4, PAGE(1, 4), RW & ~D);
	set_pte(b, 1, 5, PAGE(1, 5), RW & ~W);
	enter(b, 1, 1);
	for (unsigned n = 3; n < 6; n++)
		assert_int_equal(get(b, VA(n)), PAGE(1, n));
	rv64_set_priv(b->h, PRIV_S);
	assert_int_equal(write_entry(b, VA(3))->tag, VA(3));
	assert_int_not_equal(write_entry(b, VA(4))->tag, VA(4));
	assert_int_not_equal(write_entry(b, VA(5))->tag, VA(5));
	assert_int_equal(tracker_start(&t, b->space, &ops, NULL), 0);
	for (unsigned turn = 0; turn < 2; turn++) {
		sfence(b, NULL, NULL);
		assert_int_equal(get(b, VA(3)), turn ? 5 : PAGE(1, 3));
		rv64_set_priv(b->h, PRIV_S);
		assert_int_equal(write_entry(b, VA(3))->tag == VA(3), turn);
		heard = 0;
		put(b, VA(3), 5);
		/* and the page of the instruction that does it, which bare_one() writes */
		assert_in_range(heard, turn ? 0 : 1, 2 - turn);
		assert_int_equal(bare_get64(b, PAGE(1, 3)), 5);
	}
	tracker_stop(t);
	bare_free(b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(satp_keeps_entries),
		cmocka_unit_test(supervisor_sees_its_own_space),
		cmocka_unit_test(global_entries_are_shared),
		cmocka_unit_test(sfence_drops_what_it_names),
		cmocka_unit_test(large_pages),
		cmocka_unit_test(large_pages_are_walked_once),
		cmocka_unit_test(many_entries),
		cmocka_unit_test(execute_only_needs_mxr),
		cmocka_unit_test(modes_are_apart),
		cmocka_unit_test(tables_move),
		cmocka_unit_test(reads_make_write_entries),
		cmocka_unit_test(others_ask),
		cmocka_unit_test(others_watch_pages),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
