/* What bare guests of either ISA share: text, verdict, and what the compiler may call. */
#include "guest/common/text.h"

void (*text_also)(const char *s);

void put_text(const char *s)
{
	if (text_also)
		text_also(s);
	while (*s)
		put_char(*s++);
}

void put_hex(uint64_t v)
{
	char buf[19] = "0x";

	for (unsigned i = 0; i < 16; i++)
		buf[2 + i] = "0123456789abcdef"[(v >> (60 - 4 * i)) & 15];
	put_text(buf);
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

void fail(const char *what, uint64_t value)
{
	static int failed;

	if (failed++)
		text_also = 0; /* that is what failed now */
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
