#include "cli/ui/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "base/options.h"
#include "base/util.h"

#define CELLS 30
#define CELLS_MIN 5 /* a shorter bar says nothing */
#define QUICK_NS 300000000u
#define EVERY_NS 200000000u

void progress_begin(struct progress *p, uint64_t first)
{
	*p = (struct progress){.tty = isatty(STDERR_FILENO),
		.line = p->line,
		.first = first,
		.begun = clock_mono_ns()};
}

bool progress_due(struct progress *p)
{
	uint64_t now = clock_mono_ns();

	if (now - p->begun < QUICK_NS || now - p->shown < EVERY_NS)
		return false;
	p->shown = now;
	return true;
}

/* Bytes of the text that are `columns` characters, or all. */
static size_t cut(const char *text, size_t columns)
{
	size_t n = 0;

	while (text[n] && (columns || (text[n] & 0xc0) == 0x80))
		columns -= (text[n++] & 0xc0) != 0x80;
	return n;
}

/* What does not fit into a line would begin a new one with each drawing: first the bar is shorter, then it goes, then the end of the text. */
void progress_bar(struct progress *p, const char *doing, double part, const char *fmt, ...)
{
	static const char full[] = "##############################";
	size_t width = text_columns(stderr, 80) - 1, cells = CELLS, used;
	char name[96] = "", bar[CELLS + 4], text[256];
	va_list ap;

	if (!p->tty)
		return;
	if (doing)
		snprintf(name, sizeof(name), "%-24s ", doing);
	text_one_line(name);
	name[cut(name, MAX(width / 2, 25u))] = 0;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	text_one_line(text);
	used = strlen(name) + strlen(text) + 3; /* brackets and a space */
	cells = used + cells <= width ? cells : used < width ? width - used : 0;
	if (cells < CELLS_MIN)
		bar[0] = 0;
	else
		snprintf(bar, sizeof(bar), "[%-*.*s] ", (int)cells,
			(int)((double)cells * MIN(MAX(part, 0.0), 1.0) + 0.5), full);
	name[cut(name, width)] = 0;
	text[cut(text, width - MIN(width, strlen(name) + strlen(bar)))] = 0;
	fprintf(stderr, "\r\033[K%s%s%s", name, bar, text);
	p->line = true;
}

void progress_bytes(struct progress *p, const char *doing, uint64_t done, uint64_t of)
{
	double s = (double)(clock_mono_ns() - p->begun) / 1e9;
	char rate[32] = "";

	if (s > 0.5 && done > p->first)
		snprintf(rate, sizeof(rate), "  %.1f MiB/s", (double)(done - p->first) / MiB / s);
	progress_bar(p, doing, of ? (double)done / (double)of : 0, "%.1f / %.1f MiB%s",
		(double)done / MiB, (double)of / MiB, rate);
}

void progress_clear(struct progress *p)
{
	if (p->line)
		fputs("\r\033[K", stderr);
	p->line = false;
}
