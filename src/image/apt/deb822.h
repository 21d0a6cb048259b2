/*
 * deb822.h: the paragraph format of Debian control data (deb822(5)), Debian version numbers and
 * dependency fields.
 *
 * Used for Release, Packages, control and apt's *.sources files. Everything parsed comes from the
 * network or from packages, so nothing is trusted: slices stay inside the text that was given,
 * and the parser keeps no memory of its own. Fuzzed by tests/fuzz/image.
 *
 * Sources: deb822(5); Debian Policy 4.7 sections 5.1 (syntax), 5.6.12 (versions), 7.1 (relations).
 */
#ifndef LODGE_IMAGE_APT_DEB822_H
#define LODGE_IMAGE_APT_DEB822_H

#include "image/text.h"

#define DEB822_MAX_FIELDS 96

struct deb822_field {
	struct slice name;
	struct slice
		value; /* trimmed; continuation lines keep their line ends and leading blanks */
};

struct deb822 {
	const char *pos, *end;
	const char *what; /* names the text in errors */
	unsigned int line;
	size_t n;
	struct deb822_field field[DEB822_MAX_FIELDS]; /* of the current paragraph */
};

/* `text` must outlive d. */
void deb822_init(struct deb822 *d, const char *what, const char *text, size_t n);

/* Reads the next paragraph into d->field: 1, 0 at the end, or an error that names the line. */
int deb822_next(struct deb822 *d, struct err *e);

/* The value of a field (names compare without case); an empty slice with p == NULL when absent. */
struct slice deb822_get(const struct deb822 *d, const char *name);

/* As slice_word(), but steps over comment lines inside a value, as apt's sources may have them. */
bool deb822_word(struct slice *rest, struct slice *word);

/* Policy 5.6.12: negative, 0 or positive. Any bytes are accepted. */
int debver_cmp(struct slice a, struct slice b);

enum debrel_op { DEBREL_ANY, DEBREL_LT, DEBREL_LE, DEBREL_EQ, DEBREL_GE, DEBREL_GT };

struct debrel {
	struct slice name; /* without ":any" and the like */
	enum debrel_op op;
	struct slice version; /* empty when op is DEBREL_ANY */
	bool more; /* followed by '|': the next relation is an alternative to this one */
};

/* Takes the next relation off the front: 1, 0 at the end, -EINVAL when it is malformed. */
int debrel_next(struct slice *rest, struct debrel *r);

/* Whether a version satisfies the relation's bound. */
bool debrel_holds(const struct debrel *r, struct slice version);

#endif
