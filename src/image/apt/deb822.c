#include "image/apt/deb822.h"

#include <ctype.h>
#include <errno.h>
#include <strings.h>

#include "base/util.h"

void deb822_init(struct deb822 *d, const char *what, const char *text, size_t n)
{
	d->pos = text;
	d->end = text ? text + n : text;
	d->what = what;
	d->line = 0;
	d->n = 0;
}

/* The line at pos without its end; moves pos behind it. */
static struct slice take_line(struct deb822 *d)
{
	const char *nl = memchr(d->pos, '\n', (size_t)(d->end - d->pos));
	struct slice s = {d->pos, (size_t)((nl ?: d->end) - d->pos)};

	d->pos = nl ? nl + 1 : d->end;
	d->line++;
	return s;
}

int deb822_next(struct deb822 *d, struct err *e)
{
	d->n = 0;
	while (d->pos < d->end) {
		struct slice line = take_line(d);
		struct deb822_field *f;
		const char *colon;

		if (line.n && line.p[0] == '#')
			continue;
		if (!slice_trim(line).n) {
			if (d->n)
				return 1;
			continue;
		}
		if (line.p[0] == ' ' || line.p[0] == '\t') {
			if (!d->n)
				return err_set(e, -EINVAL, "%s line %u: continuation of nothing",
					d->what, d->line);
			f = &d->field[d->n - 1];
			f->value.n = (size_t)(line.p + line.n - f->value.p);
			continue;
		}
		colon = memchr(line.p, ':', line.n);
		if (!colon || colon == line.p)
			return err_set(e, -EINVAL, "%s line %u: no field name", d->what, d->line);
		if (d->n == DEB822_MAX_FIELDS)
			return err_set(e, -EINVAL, "%s line %u: more than %d fields", d->what,
				d->line, DEB822_MAX_FIELDS);
		f = &d->field[d->n++];
		f->name = (struct slice){line.p, (size_t)(colon - line.p)};
		f->value = (struct slice){colon + 1, (size_t)(line.p + line.n - colon - 1)};
	}
	return d->n ? 1 : 0;
}

struct slice deb822_get(const struct deb822 *d, const char *name)
{
	size_t n = strlen(name);

	for (size_t i = 0; i < d->n; i++) {
		const struct deb822_field *f = &d->field[i];

		if (f->name.n == n && !strncasecmp(f->name.p, name, n))
			return slice_trim(f->value);
	}
	return (struct slice){0};
}

bool deb822_word(struct slice *rest, struct slice *word)
{
	for (;;) {
		const char *start = rest->p;

		if (!slice_word(rest, word))
			return false;
		/* A '#' counts only at the start of a line; a value's first line starts elsewhere. */
		if (word->p[0] != '#' || word->p == start || word->p[-1] != '\n')
			return true;
		start = memchr(word->p, '\n', (size_t)(rest->p + rest->n - word->p));
		if (!start)
			return false;
		*rest = (struct slice){start, (size_t)(rest->p + rest->n - start)};
	}
}

/* Letters before everything else that is not a letter, '~' before even the end of the string. */
static int order(const char *p, const char *end)
{
	unsigned char c;

	if (p == end)
		return 0;
	c = (unsigned char)*p;
	if (c == '~')
		return -1;
	if (isdigit(c))
		return 0;
	return isalpha(c) ? c : c + 256;
}

static bool digit_at(const char *p, const char *end)
{
	return p < end && isdigit((unsigned char)*p);
}

static int part_cmp(struct slice x, struct slice y)
{
	const char *a = x.p, *ae = x.p + x.n, *b = y.p, *be = y.p + y.n;

	while (a < ae || b < be) {
		int first = 0;

		while ((a < ae && !digit_at(a, ae)) || (b < be && !digit_at(b, be))) {
			int d = order(a, ae) - order(b, be);

			if (d)
				return d;
			a += a < ae;
			b += b < be;
		}
		while (a < ae && *a == '0')
			a++;
		while (b < be && *b == '0')
			b++;
		while (digit_at(a, ae) && digit_at(b, be)) {
			if (!first)
				first = *a - *b;
			a++;
			b++;
		}
		if (digit_at(a, ae))
			return 1;
		if (digit_at(b, be))
			return -1;
		if (first)
			return first;
	}
	return 0;
}

struct version {
	struct slice epoch, upstream, revision;
};

static struct version version_split(struct slice s)
{
	struct version v = {{"", 0}, s, {"", 0}};
	const char *c;

	if (!s.n) {
		v.upstream.p = "";
		return v;
	}
	c = memchr(s.p, ':', s.n);
	if (c) {
		v.epoch = (struct slice){s.p, (size_t)(c - s.p)};
		v.upstream = (struct slice){c + 1, (size_t)(s.p + s.n - c - 1)};
	}
	c = memrchr(v.upstream.p, '-', v.upstream.n);
	if (c) {
		v.revision = (struct slice){c + 1, (size_t)(s.p + s.n - c - 1)};
		v.upstream.n = (size_t)(c - v.upstream.p);
	}
	return v;
}

int debver_cmp(struct slice a, struct slice b)
{
	struct version x = version_split(a), y = version_split(b);

	/* An epoch is a number; part_cmp() compares numbers, and none is as good as 0. */
	return part_cmp(x.epoch, y.epoch) ?: part_cmp(x.upstream, y.upstream)
			?: part_cmp(x.revision, y.revision);
}

static int rel_version(struct slice s, struct debrel *r)
{
	size_t n = 0;

	s = slice_trim(s);
	while (n < s.n && strchr("<>=", s.p[n]))
		n++;
	if (slice_is((struct slice){s.p, n}, "<<"))
		r->op = DEBREL_LT;
	else if (slice_is((struct slice){s.p, n}, "<=") || slice_is((struct slice){s.p, n}, "<"))
		r->op = DEBREL_LE;
	else if (slice_is((struct slice){s.p, n}, "="))
		r->op = DEBREL_EQ;
	else if (slice_is((struct slice){s.p, n}, ">=") || slice_is((struct slice){s.p, n}, ">"))
		r->op = DEBREL_GE;
	else if (slice_is((struct slice){s.p, n}, ">>"))
		r->op = DEBREL_GT;
	else
		return -EINVAL;
	r->version = slice_trim((struct slice){s.p + n, s.n - n});
	return r->version.n ? 0 : -EINVAL;
}

/* Architecture lists and build profiles stand behind the version in source packages: not here. */
int debrel_next(struct slice *rest, struct debrel *r)
{
	struct slice s;
	const char *c, *end;
	size_t n = 0;

	*r = (struct debrel){0};
	*rest = slice_trim(*rest);
	while (rest->n && rest->p[0] == ',')
		*rest = slice_trim((struct slice){rest->p + 1, rest->n - 1});
	if (!rest->n)
		return 0;
	end = rest->p + rest->n;
	while (n < rest->n && rest->p[n] != ',' && rest->p[n] != '|')
		n++;
	s = slice_trim((struct slice){rest->p, n});
	r->more = n < rest->n && rest->p[n] == '|';
	n += n < rest->n;
	*rest = (struct slice){rest->p + n, (size_t)(end - rest->p) - n};
	c = s.n ? memchr(s.p, '(', s.n) : NULL;
	if (c) {
		const char *close = memchr(c, ')', (size_t)(s.p + s.n - c));

		if (!close || rel_version((struct slice){c + 1, (size_t)(close - c - 1)}, r))
			return -EINVAL;
		s.n = (size_t)(c - s.p);
		s = slice_trim(s);
	}
	c = s.n ? memchr(s.p, ':', s.n) : NULL;
	if (c)
		s.n = (size_t)(c - s.p);
	for (n = 0; n < s.n; n++)
		if (!isalnum((unsigned char)s.p[n]) && !strchr("+-._", s.p[n]))
			return -EINVAL;
	r->name = s;
	return s.n ? 1 : -EINVAL;
}

bool debrel_holds(const struct debrel *r, struct slice version)
{
	int d = r->op == DEBREL_ANY ? 0 : debver_cmp(version, r->version);

	switch (r->op) {
	case DEBREL_ANY:
		return true;
	case DEBREL_LT:
		return d < 0;
	case DEBREL_LE:
		return d <= 0;
	case DEBREL_EQ:
		return d == 0;
	case DEBREL_GE:
		return d >= 0;
	case DEBREL_GT:
		return d > 0;
	}
	return false;
}
