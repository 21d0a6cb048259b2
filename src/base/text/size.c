#include "base/size.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "base/err.h"
#include "base/util.h"

static const char units[] = "BKMGT";

int uint_parse(const char *text, uint64_t *v, struct err *e)
{
	char *end;

	if (!isdigit((unsigned char)text[0]))
		return err_set(e, -EINVAL, "\"%s\" is not a number", text);
	errno = 0;
	*v = strtoull(text, &end, text[0] == '0' && (text[1] | 32) == 'x' ? 16 : 10);
	if (*end)
		return err_set(e, -EINVAL, "\"%s\" is not a number", text);
	if (errno)
		return err_set(e, -EINVAL, "\"%s\" does not fit in 64 bits", text);
	return 0;
}

int size_parse(const char *text, uint64_t *bytes, struct err *e)
{
	const char *unit = NULL;
	uint64_t v;
	char *end;
	unsigned shift;

	if (!isdigit((unsigned char)text[0]))
		return err_set(e, -EINVAL, "\"%s\" is not a size: write it as 512M or 2G", text);
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno)
		return err_set(e, -EINVAL, "\"%s\" is more than 64 bits can count", text);
	if (!*end) {
		if (v)
			return err_set(e, -EINVAL,
				"\"%s\" has no unit: write %sM or %sG (or %sB for bytes)", text,
				text, text, text);
		*bytes = 0;
		return 0;
	}
	if (*end == '.')
		return err_set(e, -EINVAL,
			"\"%s\" is not a whole number: take a smaller unit (1536M, not 1.5G)",
			text);
	unit = strchr(units, toupper((unsigned char)*end));
	if (!unit || !(end[1] == '\0' || (unit != units && (!strcasecmp(end + 1, "iB") ||
								   !strcasecmp(end + 1, "B")))))
		return err_set(e, -EINVAL,
			"\"%s\" has an unknown unit: use K, M, G or T, as in 512M or 2G", text);
	shift = (unsigned)(unit - units) * 10;
	if (v > UINT64_MAX >> shift)
		return err_set(e, -EINVAL, "\"%s\" is more than 64 bits can count", text);
	*bytes = v << shift;
	return 0;
}

const char *size_text(char text[SIZE_TEXT], uint64_t bytes)
{
	unsigned u = 0;

	if (!bytes)
		return strcpy(text, "0");
	while (u < sizeof(units) - 2 && !(bytes & 1023)) {
		bytes >>= 10;
		u++;
	}
	snprintf(text, SIZE_TEXT, "%" PRIu64 "%c", bytes, units[u]);
	return text;
}
