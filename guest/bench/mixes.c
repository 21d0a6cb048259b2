/*
 * Two mixes in the spirit of well-known ones, with code and data of our own; their figures cannot be
 * compared with published ones, only with each other on two machines.
 *
 * coremix: a linked list is searched, reversed and sorted; small integer matrices are multiplied; a
 * state machine reads numbers from text; each result goes into a CRC-16.
 * drymix: records, strings, enumerations and small functions that call each other.
 */
#include "bench.h"

#include <stdlib.h>
#include <string.h>

/* ---- coremix ---- */

static uint16_t crc16(uint16_t crc, uint32_t v, int bits)
{
	for (int i = 0; i < bits; i++, v >>= 1) {
		int carry = (int)((v ^ crc) & 1);

		crc = (uint16_t)(crc >> 1 ^ (carry ? 0xa001 : 0));
	}
	return crc;
}

struct item {
	struct item *next;
	int16_t value, place;
};

static struct item *list_reverse(struct item *head)
{
	struct item *done = NULL;

	while (head) {
		struct item *next = head->next;

		head->next = done;
		done = head;
		head = next;
	}
	return done;
}

static struct item *list_find(struct item *head, int16_t value)
{
	while (head && head->value != value)
		head = head->next;
	return head;
}

static int by_value(const struct item *a, const struct item *b)
{
	return a->value - b->value;
}

static int by_place(const struct item *a, const struct item *b)
{
	return a->place - b->place;
}

/* Merge sort from the bottom up. */
static struct item *list_sort(
	struct item *head, int (*compare)(const struct item *, const struct item *))
{
	for (int run = 1;; run *= 2) {
		struct item *rest = head, **tail = &head;
		int merges = 0;

		while (rest) {
			struct item *a = rest, *b = rest;
			int in_a = 0, in_b = run;

			merges++;
			while (in_a < run && b) {
				in_a++;
				b = b->next;
			}
			while (in_a || (in_b && b)) {
				if (in_a && (!in_b || !b || compare(a, b) <= 0)) {
					*tail = a;
					a = a->next;
					in_a--;
				} else {
					*tail = b;
					b = b->next;
					in_b--;
				}
				tail = &(*tail)->next;
			}
			rest = b;
		}
		*tail = NULL;
		if (merges <= 1)
			return head;
	}
}

enum { ITEMS = 100, SIDE = 12 };

static uint16_t list_part(struct item *items, uint64_t turn, uint16_t crc)
{
	struct item *head = items;

	for (int i = 0; i < ITEMS; i++) {
		items[i].next = i + 1 < ITEMS ? &items[i + 1] : NULL;
		items[i].value = (int16_t)(((uint64_t)i * 37 + turn) % 101);
		items[i].place = (int16_t)i;
	}
	for (int i = 0; i < 20; i++) {
		struct item *at = list_find(head, (int16_t)((turn + (uint64_t)i * 5) % 110));

		head = list_reverse(head);
		crc = crc16(crc, at ? (uint16_t)at->place : 0xffff, 16);
	}
	head = list_sort(head, by_value);
	for (struct item *p = head; p; p = p->next)
		crc = crc16(crc, (uint16_t)p->value, 8);
	head = list_sort(head, by_place);
	return crc16(crc, (uint16_t)head->value, 16);
}

static uint16_t matrix_part(int16_t *a, int16_t *b, int32_t *c, uint64_t turn, uint16_t crc)
{
	for (int i = 0; i < SIDE * SIDE; i++) {
		a[i] = (int16_t)((uint64_t)i * 7 + turn);
		b[i] = (int16_t)(i - (int)(turn & 15));
	}
	for (int i = 0; i < SIDE; i++) {
		for (int j = 0; j < SIDE; j++) {
			int32_t s = 0;

			for (int k = 0; k < SIDE; k++)
				s += a[i * SIDE + k] * b[k * SIDE + j];
			c[i * SIDE + j] = s;
		}
	}
	for (int i = 0; i < SIDE; i++) {
		int32_t s = 0;

		for (int j = 0; j < SIDE; j++) {
			int32_t v = c[i * SIDE + j];

			s += (v >> 2 & 15) * (v >> 5 & 127);
			s += v > a[j] ? 10 : v < b[j] ? -3 : 1;
		}
		crc = crc16(crc, (uint32_t)s, 16);
	}
	return crc;
}

enum state { START, SIGN, WHOLE, POINT, FRACTION, EXPONENT, POWER, BAD, STATES };

static enum state step(enum state s, char c)
{
	int digit = c >= '0' && c <= '9';

	switch (s) {
	case START:
		return digit ? WHOLE : c == '+' || c == '-' ? SIGN : c == '.' ? POINT : BAD;
	case SIGN:
		return digit ? WHOLE : c == '.' ? POINT : BAD;
	case WHOLE:
		return digit ? WHOLE : c == '.' ? FRACTION : c == 'e' ? EXPONENT : BAD;
	case POINT:
		return digit ? FRACTION : BAD;
	case FRACTION:
		return digit ? FRACTION : c == 'e' ? EXPONENT : BAD;
	case EXPONENT:
		return digit || c == '-' || c == '+' ? POWER : BAD;
	case POWER:
		return digit ? POWER : BAD;
	default:
		return BAD;
	}
}

static uint16_t text_part(char *text, uint64_t turn, uint16_t crc)
{
	static const char *const words[] = {"5012", "1.2e3", "-874", "+122", "35.54400", ".1234500",
		"-110.700", "+0.64400", "5.500e+3", "-.123e-2", "-87e+832", "+0.6e-12", "T0.3e-1F",
		"-T.T++Tq", "1T3.4e4z", "34.0e-T^"};
	uint32_t ends[STATES] = {0}, moves[STATES] = {0};
	char *p = text;

	for (uint64_t i = 0; i < 40; i++) {
		p = stpcpy(p, words[(i * 5 + turn) & 15]);
		*p++ = ',';
	}
	*p = 0;
	p = text;
	while (*p) {
		enum state s = START;

		for (; *p && *p != ','; p++) {
			enum state next = step(s, *p);

			moves[next] += next != s;
			s = next;
		}
		ends[s]++;
		p += *p == ',';
	}
	for (int i = 0; i < STATES; i++)
		crc = crc16(crc, ends[i] + moves[i] * 256, 32);
	return crc;
}

/* One unit: 10 rounds of the three parts. */
uint64_t bench_coremix(uint64_t n)
{
	struct item *items = bench_alloc(ITEMS * sizeof(*items));
	int16_t *a = bench_alloc(SIDE * SIDE * sizeof(*a)),
		*b = bench_alloc(SIDE * SIDE * sizeof(*b));
	int32_t *c = bench_alloc(SIDE * SIDE * sizeof(*c));
	char *text = bench_alloc(1024);
	uint16_t crc = 0;

	for (n *= 10; n--;) {
		crc = list_part(items, n, crc);
		crc = matrix_part(a, b, c, n, crc);
		crc = text_part(text, n, crc);
	}
	free(items);
	free(a);
	free(b);
	free(c);
	free(text);
	return crc;
}

/* ---- drymix ---- */

enum colour { RED, GREEN, BLUE, GREY };

struct record {
	struct record *other;
	enum colour colour;
	int number;
	char name[31];
};

static __attribute__((noinline)) enum colour next_colour(enum colour c, int *twice)
{
	*twice = c == GREY ? 0 : (int)c * 2;
	switch (c) {
	case RED:
		return BLUE;
	case GREEN:
		return *twice > 1 ? GREY : RED;
	case BLUE:
		return GREEN;
	default:
		return RED;
	}
}

static __attribute__((noinline)) int same_letter(char a, char b, enum colour *found)
{
	char c = a;

	if (c != b)
		return 0;
	*found = GREEN;
	return 1;
}

static __attribute__((noinline)) int names_differ(const char *a, const char *b)
{
	enum colour found = RED;
	int at = 2;

	while (at <= 2) {
		if (same_letter(a[at], b[at + 1], &found))
			at++;
		else
			at += 3;
	}
	return strcmp(a, b) > 0 ? at + 7 : found == GREEN;
}

static __attribute__((noinline)) void fill(struct record *r, int turn)
{
	struct record *o = r->other;

	*o = *r;
	o->number = turn + 5;
	o->colour = next_colour(r->colour, &r->number);
	if (o->colour == RED)
		o->number += r->number + 10;
	else
		*r = *o;
	r->other = o;
}

static __attribute__((noinline)) void table_step(int *line, int (*grid)[50], int a, int b)
{
	int at = a + 5;

	line[at] = b;
	line[at + 1] = line[at];
	line[at + 30] = at;
	for (int i = at; i <= at + 1; i++)
		grid[at][i] = at;
	grid[at][at - 1]++;
	grid[at + 20 > 49 ? 49 : at + 20][at] = line[at];
}

/* One unit: 1000 rounds. */
uint64_t bench_drymix(uint64_t n)
{
	int *line = bench_alloc(50 * sizeof(*line)), (*grid)[50] = bench_alloc(50 * sizeof(*grid));
	struct record *a = bench_alloc(sizeof(*a)), *b = bench_alloc(sizeof(*b));
	char first[31] = "A MIX OF RECORDS AND, 1'ST LINE", second[31];
	uint64_t sum = 0;

	a->other = b;
	a->colour = GREEN;
	memcpy(a->name, "A MIX OF RECORDS AND, SOME LINE", sizeof(a->name));
	a->name[30] = 0;
	first[30] = 0;
	for (n *= 1000; n--;) {
		int x = 2, y = 3, z = 0;

		memcpy(second, "A MIX OF RECORDS AND, 2'ND LINE", sizeof(second));
		second[30] = 0;
		sum += (uint64_t)names_differ(first, second);
		while (x < y) {
			z = 5 * x - y;
			x++;
		}
		table_step(line, grid, x, z + (int)(n & 7));
		fill(a, (int)(n & 15));
		for (char c = 'A'; c <= 'C' + (char)(n & 1); c++) {
			enum colour found;

			if (same_letter(c, 'C', &found))
				strcpy(second, a->name);
		}
		y = y * z;
		x = y / (z ? z : 1);
		sum += (uint64_t)(7 * (y - z) - x) + (uint64_t)second[5] +
		       (uint64_t)a->other->number;
		a->colour = (enum colour)((a->colour + 1) & 3);
		a->other = b;
	}
	sum = bench_fold(sum, (uint64_t)(line[8] + grid[8][7]));
	free(line);
	free(grid);
	free(a);
	free(b);
	return sum;
}
