#include "cli/progress.h"

#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/util.h"

#define CELLS 30
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

void progress_bar(struct progress *p, const char *doing, double part, const char *fmt, ...)
{
	static const char full[] = "##############################";
	va_list ap;

	if (!p->tty)
		return;
	fputs("\r\033[K", stderr);
	if (doing)
		fprintf(stderr, "%-24.60s ", doing);
	fprintf(stderr, "[%-*.*s] ", CELLS, (int)(CELLS * MIN(MAX(part, 0.0), 1.0) + 0.5), full);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
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
