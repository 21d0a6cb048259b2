#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"

static const char *const level_names[] = {"error", "warn", "info", "debug"};

void log_line(const struct log *l, enum log_level lvl, const char *part, const char *fmt, ...)
{
	char line[1024];
	struct timespec ts;
	struct tm tm;
	va_list ap;
	size_t n;

	if (!l || lvl > l->max)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	n = strftime(line, sizeof(line), "%Y-%m-%dT%H:%M:%S", &tm);
	n += (size_t)snprintf(line + n, sizeof(line) - n, ".%03ldZ %s %s: ", ts.tv_nsec / 1000000,
		level_names[lvl], part);
	va_start(ap, fmt);
	vsnprintf(line + n, sizeof(line) - n - 1, fmt, ap);
	va_end(ap);
	for (n = 0; n < sizeof(line) - 2 && line[n]; n++)
		;
	line[n++] = '\n';
	/* A log that cannot be written must not stop the machine that it tells about. */
	if (write(l->fd, line, n) < 0)
		return;
}
