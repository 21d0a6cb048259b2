#include "base/hex.h"

#include <errno.h>
#include <stdint.h>

void hex_put(char *text, const void *data, size_t n)
{
	const uint8_t *p = data;

	for (size_t i = 0; i < n; i++) {
		*text++ = "0123456789abcdef"[p[i] >> 4];
		*text++ = "0123456789abcdef"[p[i] & 15];
	}
	*text = '\0';
}

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

int hex_get(void *data, size_t n, const char *text)
{
	uint8_t *p = data;

	for (size_t i = 0; i < n; i++) {
		int hi = digit(text[0]);
		int lo = hi < 0 ? -1 : digit(text[1]);

		if (lo < 0)
			return -EINVAL;
		p[i] = (uint8_t)(hi << 4 | lo);
		text += 2;
	}
	return *text ? -EINVAL : 0;
}
