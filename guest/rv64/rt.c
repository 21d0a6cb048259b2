#include "rt.h"

#define UART ((volatile uint8_t *)0x10000000)
#define FINISHER ((volatile uint32_t *)0x100000)

void put_char(char c)
{
	while (!(UART[5] & 0x20))
		;
	UART[0] = (uint8_t)c;
}

void put_text(const char *s)
{
	while (*s)
		put_char(*s++);
}

void put_hex(uint64_t v)
{
	put_text("0x");
	for (int i = 60; i >= 0; i -= 4)
		put_char("0123456789abcdef"[(v >> i) & 15]);
}

void put_dec(uint64_t v)
{
	char buf[21];
	int n = 20;

	buf[n] = 0;
	do {
		buf[--n] = (char)('0' + v % 10);
		v /= 10;
	} while (v);
	put_text(buf + n);
}

void finish(unsigned code)
{
	*FINISHER = code ? 0x3333 | code << 16 : 0x5555;
	for (;;)
		__asm__ volatile("wfi");
}

void fail(const char *what, uint64_t value)
{
	put_text("FAIL ");
	put_text(what);
	put_text(" ");
	put_hex(value);
	put_text("\n");
	finish(1);
}

void test_done(int rc);
void test_done(int rc)
{
	if (rc)
		fail("main returned", (uint64_t)rc);
	put_text("SUCCESS\n");
	finish(0);
}

__attribute__((weak)) uint64_t trap(uint64_t cause, uint64_t epc, uint64_t tval, uint64_t *regs)
{
	put_text("unexpected trap: cause ");
	put_hex(cause);
	put_text(" epc ");
	put_hex(epc);
	put_text(" tval ");
	put_hex(tval);
	put_text("\n");
	finish(2);
}

/* The compiler may call these. */
void *memset(void *p, int c, unsigned long n);
void *memset(void *p, int c, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		((volatile char *)p)[i] = (char)c;
	return p;
}

void *memcpy(void *d, const void *s, unsigned long n);
void *memcpy(void *d, const void *s, unsigned long n)
{
	for (unsigned long i = 0; i < n; i++)
		((volatile char *)d)[i] = ((const char *)s)[i];
	return d;
}
