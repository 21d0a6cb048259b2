/*
 * log.h: lines for people who run Lodge.
 *
 * A logger is an object that its owner passes down (no globals: decision D11). Lines go to one file
 * descriptor as "<time> <level> <part>: <text>\n" in one write(2), so lines of several threads do
 * not mix. Thread-safe. A NULL logger drops everything, which is what most unit tests want.
 */
#ifndef LODGE_BASE_LOG_H
#define LODGE_BASE_LOG_H

enum log_level { LOG_LVL_ERROR, LOG_LVL_WARN, LOG_LVL_INFO, LOG_LVL_DEBUG };

struct log {
	int fd;
	enum log_level max; /* lines above this level are dropped before they are formatted */
};

void log_line(const struct log *l, enum log_level lvl, const char *part, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

#define log_error(l, part, ...) log_line(l, LOG_LVL_ERROR, part, __VA_ARGS__)
#define log_warn(l, part, ...) log_line(l, LOG_LVL_WARN, part, __VA_ARGS__)
#define log_info(l, part, ...) log_line(l, LOG_LVL_INFO, part, __VA_ARGS__)
#define log_debug(l, part, ...) log_line(l, LOG_LVL_DEBUG, part, __VA_ARGS__)

#endif
