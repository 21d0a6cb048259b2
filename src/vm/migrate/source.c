#include "vm/migrate/source.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/err.h"
#include "base/json.h"
#include "base/state.h"
#include "base/util.h"
#include "vm/migrate/blocks.h"
#include "vm/migrate/chan.h"
#include "vm/migrate/disks_out.h"
#include "vm/migrate/postcopy.h"
#include "vm/migrate/ram.h"

#define SAMPLE_NS \
	50000000ull /* after so much of the first round it is seen how fast the guest writes */
#define PROBE_BYTES (64 * MiB) /* what a dry run sends, at most, to see how fast it goes */
#define PROBE_NS 300000000ull
#define FIXED_NS 3000000ull /* of a switch-over, beside pages: state, disks, answers */
#define SMALL_NS 2000000ull /* a round that is shorter is not worth another */
#define THROTTLE_MAX 999u /* of 1000 */
#define STUCK_MAX \
	8u /* rounds that are no shorter than the one before, when nothing more can be done about it */
#define CACHE_BYTES (64 * MiB) /* for deltas, over all streams */
#define JUDGE_PAGES \
	4096u /* after so many, or so long, each stream thinks again about how it packs */
#define JUDGE_NS 200000000ull
#define GO_STALL_NS 20000000000ull
#define POST_STALL_NS \
	60000000000ull /* all was sent, and the destination does not say that it has it */
#define DISK_ROUNDS 10u /* over the disks before memory begins, at most */
#define DISK_FAIR (4 * MiB) /* fewer bytes say nothing about how fast many would go */

const char *mig_phase_name(enum mig_phase p)
{
	static const char *const names[] = {"connecting", "copying", "switching", "postcopy",
		"done", "failed", "lost", "postcopy-paused", "tried"};

	return names[p];
}

struct sender {
	struct source *s;
	unsigned index;
	pthread_t thread;
	bool running;
	struct chan *c;
	struct mig_pack *pack;
	uint8_t *pages; /* MIG_BATCH */
	int rc;
	struct err e;

	/* How this stream packs, what each way has brought (pages a ns), and the present measurement. */
	enum { RAW, ZSTD, DELTA, LEVELS } level;
	double good[LEVELS];
	unsigned age[LEVELS], tries[LEVELS];
	uint64_t since, pages_sent, wait_ns;
	uint64_t budget_at, budget; /* bandwidth: when, and how many bytes were allowed then */
};

struct source {
	struct source_opts o;
	struct mig_ram ram;
	struct tracker *t;
	uint64_t words;
	uint64_t *todo, *had; /* pages of this round; that the other side has had */
	uint64_t *early,
		*into; /* written to since this round began, as seen by sample(); where mark() marks */
	bool sampled;
	int cancel;
	pthread_t thread;
	bool running;
	struct sender snd[MIG_STREAMS_MAX];
	uint64_t began_ns, collected_ns;
	struct post_give *post; /* NULL: not post-copy */
	bool away; /* the machine runs at the destination: the senders push */
	uint64_t stop_bytes; /* of a probe: no more in this round; 0: all */
	bool unlimited; /* the guest stands still: no limit of bandwidth */
	struct mig_blocks *blocks; /* packs disks */
	char *welcome;
	unsigned version; /* of the stream */
	int peer; /* pid that the other side says it has; 0: none */

	pthread_mutex_t lock; /* all below */
	pthread_cond_t cond;
	unsigned round_no, senders_left; /* rounds that were begun; senders that are at work */
	bool leave; /* further senders end */
	struct source_stat st;
	struct err why;
	bool cancelled;
	bool answered; /* the loop's thread has stopped the machine, or could not */
	bool disks_free; /* it has put the disks to sleep, or could not */
	int stop_rc, disks_rc;
	struct source_moment moment;
	uint64_t round_ns; /* when the present round began */
};

static void set_phase(struct source *s, enum mig_phase p)
{
	pthread_mutex_lock(&s->lock);
	s->st.phase = p;
	pthread_mutex_unlock(&s->lock);
}

/* ---- one stream ---- */

static int sleep_until(struct source *s, uint64_t when, struct err *e)
{
	struct pollfd p = {s->cancel, POLLIN, 0};
	uint64_t now;

	while ((now = clock_mono_ns()) < when)
		if (poll(&p, 1, (int)((when - now + 999999) / 1000000)) > 0)
			return err_set(e, -ECANCELED, "cancelled");
	return 0;
}

/* Waits until `len` bytes may go. */
static int obey_limit(struct sender *d, uint32_t len, struct err *e)
{
	struct source *s = d->s;
	uint64_t rate = s->o.bandwidth / s->o.nfds, now = clock_mono_ns();

	if (!s->o.bandwidth || s->unlimited)
		return 0;
	/* At most a tenth of a second's worth at once. */
	d->budget_at = MAX(d->budget_at, now > 100000000 ? now - 100000000 : 0);
	d->budget_at += (uint64_t)((double)len * 1e9 / (double)MAX(rate, 1ull));
	return d->budget_at > now ? sleep_until(s, d->budget_at, e) : 0;
}

/*
 * Which way of packing brings most memory over? Each is measured for a while. A costlier one is tried where the connection is waited for, a cheaper one
 * where it is not; what was no better is tried again less and less often.
 */
static void judge(struct sender *d)
{
	uint64_t now = clock_mono_ns(), ns = now - d->since;
	unsigned next = d->level, best = 0;
	double waited;

	if (d->pages_sent < JUDGE_PAGES && ns < JUDGE_NS)
		return;
	waited = (double)d->wait_ns / (double)MAX(ns, 1ull);
	d->good[d->level] = (double)d->pages_sent / (double)MAX(ns, 1ull);
	for (unsigned i = 0; i < LEVELS; i++) {
		d->age[i] = i == d->level ? 0 : d->age[i] + 1;
		if (d->good[i] > d->good[best])
			best = i;
	}
	if (waited > 0.3 && next + 1 < LEVELS)
		next++;
	else if (waited < 0.1 && next)
		next--;
	if (next != d->level && (!d->tries[next] || d->age[next] >= 4u << MIN(d->tries[next], 8u)))
		d->tries[next]++;
	else
		next = best;
	d->level = next;
	d->since = now;
	d->pages_sent = d->wait_ns = 0;
}

static int flush(struct sender *d, struct err *e)
{
	struct source *s = d->s;
	const void *payload;
	uint64_t about, at;
	uint32_t len = mig_pack_take(d->pack, &payload, &about);
	int rc;

	if (!len)
		return 0;
	at = clock_mono_ns();
	rc = obey_limit(d, len, e) ?: chan_send(d->c, MIG_PAGES, about, payload, len, e);
	if (rc)
		return rc;
	d->wait_ns += clock_mono_ns() - at;
	d->pages_sent += about;
	judge(d);
	pthread_mutex_lock(&s->lock);
	s->st.wire += len + MIG_HEAD;
	s->st.zstd = d->level != RAW;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* Disks go over the first stream, as the records of memory do. */
static int send_piece(struct sender *d, const struct disks_piece *p, struct err *e)
{
	struct source *s = d->s;
	const void *payload;
	uint64_t at = clock_mono_ns();
	uint32_t len = p->data ? mig_blocks_data(s->blocks, p->disk, p->off, (uint32_t)p->len,
					 p->data, d->level != RAW, &payload)
			       : mig_blocks_zero(s->blocks, p->disk, p->off, p->len, &payload);
	int rc = obey_limit(d, len, e) ?: chan_send(d->c, MIG_DISK, p->len, payload, len, e);

	if (rc)
		return rc;
	d->wait_ns += clock_mono_ns() - at;
	d->pages_sent += p->data ? p->len / MIG_PAGE : 0;
	judge(d);
	pthread_mutex_lock(&s->lock);
	s->st.wire += len + MIG_HEAD;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static void note_disk_rate(struct source *s, uint64_t bytes, uint64_t began)
{
	double ns = (double)(clock_mono_ns() - began + 1);

	pthread_mutex_lock(&s->lock);
	if (bytes >= DISK_FAIR || (bytes && !s->st.disk_rate))
		s->st.disk_rate = MAX((uint64_t)((double)bytes * 1e9 / ns), 1ull);
	pthread_mutex_unlock(&s->lock);
}

/* One pass over the disks, and until the other side has it on its own. */
static int send_disks(struct source *s, enum disks_pass pass, struct err *e)
{
	struct sender *d = &s->snd[0];
	uint64_t bytes = 0, began = clock_mono_ns();
	struct disks_piece *p = NULL;
	struct mig_head h;
	bool any = false;
	int rc = 0;

	if (!s->o.disks)
		return 0;
	d->since = began;
	d->pages_sent = d->wait_ns = 0;
	disks_out_begin(s->o.disks, pass);
	do {
		rc = disks_out_next(s->o.disks, &p, e);
		if (rc || !p)
			break;
		rc = send_piece(d, p, e);
		bytes += p->data ? p->len : 0;
		any = true;
		disks_out_put(s->o.disks, p);
		note_disk_rate(s, bytes, began);
		if (s->stop_bytes && (bytes > PROBE_BYTES || clock_mono_ns() - began > PROBE_NS))
			break;
	} while (!rc);
	if (!rc && any)
		rc = chan_send(d->c, MIG_ROUND, s->st.round, NULL, 0, e)
			     ?: chan_want(d->c, MIG_ACK, &h, NULL, e);
	note_disk_rate(s, bytes, began);
	return rc;
}

static int send_run(struct sender *d, uint64_t first, unsigned n, struct err *e)
{
	struct source *s = d->s;
	/* After the switch-over the other side has no page to compare with, and waits for each. */
	uint64_t had = s->away ? ~0ull : s->had[first / 64] >> (first % 64);
	struct mig_pack_opts o = {.zstd = d->level != RAW,
		.cache = d->level == DELTA && !s->away ? CACHE_BYTES / s->o.nfds : 0};
	void *to = mig_pack_room(d->pack, n);
	int rc;

	if (!to) {
		rc = flush(d, e);
		if (rc)
			return rc;
		to = mig_pack_room(d->pack, n);
	}
	to = o.zstd ? d->pages : to;
	rc = mig_ram_read(&s->ram, first, n, to);
	if (rc)
		return err_sys(
			e, rc, "migration: guest memory at page %llu", (unsigned long long)first);
	if (!mig_pack_add(d->pack, &o, first, n, to, had))
		return err_set(e, -E2BIG, "migration: %u pages do not fit", n);
	return 0;
}

static int send_bits(struct sender *d, uint64_t w, uint64_t bits, struct err *e)
{
	int rc = 0;

	for (unsigned i = 0, n; !rc && bits; i += n) {
		unsigned skip = (unsigned)__builtin_ctzll(bits);

		bits >>= skip;
		i += skip;
		n = ~bits ? (unsigned)__builtin_ctzll(~bits) : 64;
		rc = send_run(d, w * 64 + i, n, e);
		bits = n == 64 ? 0 : bits >> n;
	}
	return rc;
}

static int send_word(struct sender *d, uint64_t w, struct err *e)
{
	struct source *s = d->s;
	int rc = send_bits(d, w, s->todo[w], e);

	s->had[w] |= s->todo[w];
	pthread_mutex_lock(&s->lock);
	s->st.left -= (uint64_t)__builtin_popcountll(s->todo[w]);
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static void signal_cancel(struct source *s)
{
	uint64_t one = 1;

	while (write(s->cancel, &one, sizeof(one)) < 0 && errno == EINTR)
		;
}

/* The background of post-copy; what the guest waits for goes over the first stream. */
static int push(struct sender *d, struct err *e)
{
	struct source *s = d->s;
	uint64_t w, bits;
	int rc = chan_send(d->c, MIG_PUSH, 0, NULL, 0, e);

	d->since = clock_mono_ns();
	d->pages_sent = d->wait_ns = 0;
	while (!rc && post_give_next(s->post, &w, &bits))
		rc = send_bits(d, w, bits, e) ?: flush(d, e);
	if (rc)
		signal_cancel(s); /* they end together */
	return rc;
}

/* ---- what is written ---- */

static void mark(void *ctx, gpa_t page)
{
	struct source *s = ctx;
	uint64_t i = mig_ram_page(&s->ram, page);

	s->into[i / 64] |= 1ull << (i % 64);
}

static void note_writes(struct source *s, uint64_t pages)
{
	uint64_t ns = clock_mono_ns() - s->collected_ns;

	pthread_mutex_lock(&s->lock);
	if (ns > 1000000)
		s->st.dirty = (uint64_t)((double)(pages * MIG_PAGE) * 1e9 / (double)ns);
	pthread_mutex_unlock(&s->lock);
}

/* How fast the guest writes, for whoever wants to know how long it will take before the first round is over. Any thread, while no round ends. */
static void sample(struct source *s)
{
	s->sampled = true;
	s->into = s->early;
	note_writes(s, tracker_collect(s->t, mark, s));
	s->into = s->todo;
}

/* What the guest has written to since this was last asked; its rate goes to the statistics. */
static uint64_t collect(struct source *s)
{
	uint64_t n = 0;

	memcpy(s->todo, s->early, s->words * sizeof(*s->todo));
	memset(s->early, 0, s->words * sizeof(*s->early));
	tracker_collect(s->t, mark, s);
	for (uint64_t w = 0; w < s->words; w++)
		n += (uint64_t)__builtin_popcountll(s->todo[w]);
	note_writes(s, n);
	s->collected_ns = clock_mono_ns();
	s->sampled = true;
	return n;
}

/* This stream's share of the round, and until the other side has put it in its place. A page always goes over the same stream. */
static int send_share(struct sender *d, struct err *e)
{
	struct source *s = d->s;
	uint64_t began = clock_mono_ns();
	struct mig_head h;
	int rc = 0;

	d->since = began;
	d->pages_sent = d->wait_ns = 0;
	for (uint64_t w = d->index; !rc && w < s->words; w += s->o.nfds) {
		if (s->todo[w])
			rc = send_word(d, w, e);
		if (!d->index && !s->sampled && clock_mono_ns() - s->collected_ns > SAMPLE_NS)
			sample(s);
		if (s->stop_bytes &&
			(s->st.wire > s->stop_bytes || clock_mono_ns() - began > PROBE_NS))
			break;
	}
	rc = rc ?: flush(d, e) ?: chan_send(d->c, MIG_ROUND, s->st.round, NULL, 0, e);
	return rc ?: chan_want(d->c, MIG_ACK, &h, NULL, e);
}

static void *sender_main(void *arg)
{
	struct sender *d = arg;
	struct source *s = d->s;
	unsigned seen = 0;
	char name[16];

	snprintf(name, sizeof(name), "migrate-%u", d->index);
	pthread_setname_np(pthread_self(), name);
	pthread_mutex_lock(&s->lock);
	for (;;) {
		while (!s->leave && s->round_no == seen)
			pthread_cond_wait(&s->cond, &s->lock);
		if (s->leave)
			break;
		seen = s->round_no;
		pthread_mutex_unlock(&s->lock);
		if (!d->rc)
			d->rc = s->away ? push(d, &d->e) : send_share(d, &d->e);
		pthread_mutex_lock(&s->lock);
		s->senders_left--;
		pthread_cond_broadcast(&s->cond);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- rounds ---- */

/* All that anybody has ever touched. */
static uint64_t collect_all(struct source *s)
{
	uint64_t n = 0;

	memset(s->todo, 0, s->words * sizeof(*s->todo));
	for (uint64_t p = 0; p < s->ram.pages;) {
		uint64_t empty = mig_ram_untouched(&s->ram, p, s->ram.pages - p);
		unsigned k = (unsigned)MIN(64ull, s->ram.pages - p);

		if (empty >= k) {
			p += align_down(MAX(empty, 64ull), 64);
			continue;
		}
		s->todo[p / 64] = k == 64 ? ~0ull : (1ull << k) - 1;
		p += k;
		n += k;
	}
	return n;
}

/* Under the lock: the further streams begin, or all of them are done. */
static void start_senders(struct source *s, uint64_t pages, uint64_t now)
{
	s->st.left = s->st.of = pages;
	s->round_ns = now;
	s->senders_left = s->o.nfds - 1;
	s->round_no++;
	pthread_cond_broadcast(&s->cond);
}

static void wait_for_senders(struct source *s)
{
	while (s->senders_left)
		pthread_cond_wait(&s->cond, &s->lock);
}

static int sender_error(struct source *s, struct err *e)
{
	for (unsigned i = 1; i < s->o.nfds; i++)
		if (s->snd[i].rc) {
			*e = s->snd[i].e;
			return s->snd[i].rc;
		}
	return 0;
}

static int send_round(struct source *s, uint64_t pages, struct err *e)
{
	uint64_t began = clock_mono_ns(), ns, wire = s->st.wire;
	int rc;

	pthread_mutex_lock(&s->lock);
	start_senders(s, pages, began);
	pthread_mutex_unlock(&s->lock);
	rc = send_share(&s->snd[0], e);
	pthread_mutex_lock(&s->lock);
	wait_for_senders(s);
	ns = clock_mono_ns() - began;
	pages -= s->st.left;
	s->st.round++;
	/* A few pages say nothing about how fast many would go. */
	if (!s->st.page_rate || pages > 2048) {
		s->st.rate = (uint64_t)((double)(s->st.wire - wire) * 1e9 / (double)ns);
		s->st.page_rate = MAX((uint64_t)((double)pages * 1e9 / (double)ns), 1ull);
	}
	pthread_mutex_unlock(&s->lock);
	return rc ?: sender_error(s, e);
}

/* What was written to the disks since they were last gone over, as so many pages of memory. */
static uint64_t disk_pages(struct source *s)
{
	double bytes = s->o.disks ? (double)disks_out_dirty(s->o.disks) : 0;

	return (uint64_t)(bytes * (double)s->st.page_rate / (double)MAX(s->st.disk_rate, 1ull));
}

static uint64_t time_for(struct source *s, uint64_t pages)
{
	return FIXED_NS + (uint64_t)((double)pages * 1e9 / (double)MAX(s->st.page_rate, 1ull));
}

static void set_throttle(struct source *s, unsigned permille)
{
	pthread_mutex_lock(&s->lock);
	s->st.throttle = permille;
	pthread_mutex_unlock(&s->lock);
	s->o.throttle(s->o.ctx, permille);
}

/*
 * The guest is to write at most half as fast as the connection carries. What it writes is counted by pages: who goes over the same ones again and
 * again writes more than was seen, so that each further round without progress halves at least what it may.
 */
static void slow_down(struct source *s)
{
	double rate = (double)s->st.page_rate * MIG_PAGE, dirty = (double)s->st.dirty;
	double may = (1000 - s->st.throttle) * (dirty > rate ? 0.5 * rate / dirty : 0.5);

	set_throttle(s, MIN((unsigned)(1000 - may + 0.5), THROTTLE_MAX));
}

static int no_end(struct source *s, struct err *e)
{
	return err_set(e, -ETIME,
		"the guest writes faster (%llu MiB/s) than the connection carries (%llu MiB/s)%s: "
		"give it more bandwidth%s, or a longer --downtime than %llu ms (%llu ms would do "
		"now)",
		(unsigned long long)(s->st.dirty >> 20),
		(unsigned long long)(s->st.page_rate * MIG_PAGE >> 20),
		s->o.no_throttle ? "" : ", also slowed down",
		s->o.no_throttle ? ", leave --no-throttle away" : "",
		(unsigned long long)(s->o.downtime_ns / 1000000),
		(unsigned long long)(s->st.predicted_ns / 1000000 + 1));
}

/* Rounds until what is left goes within the downtime that was asked for. s->todo: what is left then. */
static int copy(struct source *s, struct err *e)
{
	uint64_t n = collect_all(s), before, pages = n;
	unsigned stuck = 0;
	int rc = 0;

	s->st.touched = n;
	while (!rc) {
		bool shorter;

		rc = (s->stop_bytes ? 0 : send_disks(s, DISKS_DIRTY, e)) ?: send_round(s, pages, e);
		if (rc || s->stop_bytes)
			break;
		before = n;
		pages = collect(s);
		n = pages + disk_pages(s);
		pthread_mutex_lock(&s->lock);
		s->st.predicted_ns = time_for(s, n);
		pthread_mutex_unlock(&s->lock);
		shorter = n * 4 < before * 3;
		/* Within the limit; and another round would not make it much less. */
		if (s->st.predicted_ns <= s->o.downtime_ns &&
			(!shorter || time_for(s, n) - FIXED_NS < SMALL_NS))
			break;
		stuck = shorter ? 0 : stuck + 1;
		if (stuck == STUCK_MAX)
			rc = no_end(s, e);
		if (!shorter && !s->o.no_throttle && s->st.throttle < THROTTLE_MAX) {
			slow_down(s);
			stuck = 0;
		}
	}
	return rc;
}

/* At most one round; s->todo: what is left then, which the destination drops while the guest still runs here. */
static int copy_for_post(struct source *s, struct err *e)
{
	struct chan *c = s->snd[0].c;
	uint64_t n = collect_all(s);
	int rc = 0;

	s->st.touched = n;
	if (s->o.post == MIG_POST_AFTER_ROUND) {
		rc = send_round(s, n, e);
		collect(s);
	}
	return rc ?: post_give_lack(s->post, c, s->todo, e)
		?: chan_send(c, MIG_ROUND, s->st.round, NULL, 0, e)
		?: chan_want(c, MIG_ACK, NULL, NULL, e);
}

/*
 * All of the disks, and what was written meanwhile, until that goes quickly, or no quicker than before: the rest goes with the rounds of memory, which
 * this comes before, so that memory is not gone over for as long as a disk takes.
 */
static int copy_disks(struct source *s, struct err *e)
{
	uint64_t before = UINT64_MAX, left, began;
	int rc;

	if (!s->o.disks)
		return 0;
	rc = send_disks(s, DISKS_MEASURE, e);
	began = clock_mono_ns();
	pthread_mutex_lock(&s->lock);
	s->st.disk_data = disks_out_data(s->o.disks);
	s->st.disks = true;
	pthread_mutex_unlock(&s->lock);
	rc = rc ?: send_disks(s, DISKS_ALL, e);
	for (unsigned i = 0; !rc && i < DISK_ROUNDS && !s->o.dry_run; i++, before = left) {
		left = disks_out_dirty(s->o.disks);
		if ((double)left * 1e9 / (double)MAX(s->st.disk_rate, 1ull) <
				(double)s->o.downtime_ns / 2 ||
			left > before / 4 * 3)
			break;
		rc = send_disks(s, DISKS_DIRTY, e);
	}
	left = disks_out_dirty(s->o.disks);
	pthread_mutex_lock(&s->lock);
	s->st.disks = false;
	if (s->o.dry_run) {
		s->st.disk_dirty = (uint64_t)((double)left * 1e9 /
					      (double)(clock_mono_ns() - began + 1));
		s->stop_bytes += s->st.wire; /* memory has as much for itself */
	}
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* What the destination translates first. Nothing fails for want of it. */
static int send_hot(struct source *s, struct err *e)
{
	cleanup(free_ptr) uint64_t *list = NULL;
	size_t n;

	if (!s->o.hot)
		return 0;
	list = calloc(MIG_HOT_MAX, sizeof(*list));
	n = list ? s->o.hot(s->o.ctx, list, MIG_HOT_MAX) : 0;
	for (size_t i = 0; i < n; i++)
		put_le64(&list[i], list[i]);
	return n ? chan_send(s->snd[0].c, MIG_HOT, n, list, (uint32_t)(n * 8), e) : 0;
}

/* ---- the switch-over ---- */

static int ask_stop(struct source *s, struct err *e)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	s->answered = false;
	pthread_mutex_unlock(&s->lock);
	s->o.ask_stop(s->o.ctx);
	pthread_mutex_lock(&s->lock);
	while (!s->answered && !s->cancelled)
		pthread_cond_wait(&s->cond, &s->lock);
	rc = s->answered ? s->stop_rc : err_set(&s->why, -ECANCELED, "cancelled");
	if (!rc)
		s->st.phase = MIG_SWITCHING;
	else
		*e = s->why;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

static int wait_for_disks(struct source *s, struct err *e)
{
	int rc;

	pthread_mutex_lock(&s->lock);
	while (!s->disks_free && !s->cancelled)
		pthread_cond_wait(&s->cond, &s->lock);
	rc = s->disks_free ? s->disks_rc : err_set(&s->why, -ECANCELED, "cancelled");
	if (rc)
		*e = s->why;
	pthread_mutex_unlock(&s->lock);
	return rc;
}

/* Loading the state may touch pages that are still here. */
static int wait_word(struct source *s, enum mig_type type, struct err *e)
{
	struct sender *d = &s->snd[0];

	return s->post ? post_give_until(s->post, d->c, d->pack, type, e)
		       : chan_want(d->c, type, NULL, NULL, e);
}

static int send_moment(struct source *s, struct err *e)
{
	const struct source_moment *m = &s->moment;
	struct chan *c = s->snd[0].c;
	int rc = 0;

	if (m->neighbours && s->version >= MIG_VERSION_NEIGHBOURS)
		rc = chan_send(
			c, MIG_NEIGHBOURS, 0, m->neighbours, (uint32_t)strlen(m->neighbours), e);
	return rc ?: chan_send(c, MIG_STATE, 0, m->state, (uint32_t)m->len, e);
}

/* Until MIG_GO has gone out nothing has happened that could not be taken back. */
static int hand_over(struct source *s, struct err *e)
{
	struct chan *c = s->snd[0].c;
	uint64_t n = 0, at = clock_mono_ns();
	int rc;

	s->unlimited = true;
	rc = send_disks(s, DISKS_DIRTY, e);
	if (rc)
		return rc;
	s->st.blocks_ns = clock_mono_ns() - at;
	/* Beside what came after it, what the last collect has found is still to be sent. */
	tracker_collect(s->t, mark, s);
	for (uint64_t w = 0; w < s->words; w++)
		n += (uint64_t)__builtin_popcountll(s->todo[w]);
	rc = s->post ? post_give_lack(s->post, c, s->todo, e) : send_round(s, n, e);
	s->st.last_ns = clock_mono_ns() - at - s->st.blocks_ns;
	rc = rc ?: send_moment(s, e) ?: wait_for_disks(s, e)
		?: chan_send(c, MIG_SWITCH, s->moment.was_paused | (s->post ? 2 : 0), NULL, 0, e)
		?: wait_word(s, MIG_READY, e);
	if (rc)
		return rc;
	s->st.load_ns = clock_mono_ns() - at - s->st.blocks_ns - s->st.last_ns;
	chan_cancel_by(c, -1);
	return 0;
}

/*
 * It is the destination's now unless it says otherwise, or, on this host, unless the other process is seen to have ended without a word: it says RUNNING
 * before it runs.
 */
static int go(struct source *s, bool *lost, struct err *e)
{
	struct chan *c = s->snd[0].c;
	uint64_t at = clock_mono_ns();
	int rc;

	*lost = false;
	chan_stall(c, GO_STALL_NS);
	rc = chan_send(c, MIG_GO, clock_mono_ns() - s->moment.saved, NULL, 0, e);
	if (rc) {
		/* Some of it may have gone out. */
		*lost = !chan_is_direct(c, s->peer);
		return rc;
	}
	rc = wait_word(s, MIG_RUNNING, e);
	s->st.go_ns = clock_mono_ns() - at;
	if (rc && rc != -EREMOTEIO)
		*lost = !(chan_is_direct(c, s->peer) &&
			  (rc == -ENOTCONN || rc == -ECONNRESET || rc == -EPIPE));
	return rc;
}

static int switch_over(struct source *s, bool *lost, struct err *e)
{
	int rc;

	*lost = false;
	for (;;) {
		rc = ask_stop(s, e);
		if (rc != -EAGAIN)
			break;
		/* It is about to reboot, or the like. */
		rc = sleep_until(s, clock_mono_ns() + 50000000, e);
		if (rc)
			break;
	}
	rc = rc ?: hand_over(s, e) ?: go(s, lost, e);
	if (rc)
		return rc;
	pthread_mutex_lock(&s->lock);
	s->st.downtime_ns = clock_mono_ns() - s->moment.since;
	pthread_mutex_unlock(&s->lock);
	return 0;
}

/* ---- post-copy ---- */

/* From here on nothing cancels: the machine runs there, and what it lacks is here. */
static void enter_post(struct source *s)
{
	struct post_give_stat st;
	uint64_t drop;

	post_give_stat(s->post, &st);
	pthread_mutex_lock(&s->lock);
	s->st.phase = MIG_POST;
	s->away = true;
	s->unlimited = false;
	s->cancelled = false;
	if (read(s->cancel, &drop, sizeof(drop)) < 0)
		drop = 0;
	start_senders(s, st.of, clock_mono_ns());
	pthread_mutex_unlock(&s->lock);
}

static int send_rest(struct source *s, struct err *e)
{
	struct sender *d = &s->snd[0];
	int rc;

	enter_post(s);
	s->o.tell_post(s->o.ctx);
	chan_cancel_by(d->c, s->cancel);
	chan_stall(d->c, POST_STALL_NS);
	rc = post_give_until(s->post, d->c, d->pack, MIG_WHOLE, e);
	if (!rc) /* whether it gets there is no matter: it waits a while, and needs nothing */
		(void)chan_send(d->c, MIG_ACK, 0, NULL, 0, NULL);
	else
		signal_cancel(s);
	pthread_mutex_lock(&s->lock);
	wait_for_senders(s);
	pthread_mutex_unlock(&s->lock);
	if (rc == -ECANCELED)
		rc = sender_error(s, e) ?: rc;
	return rc;
}

/* ---- all of it ---- */

static int join_streams(struct source *s, struct err *e)
{
	int rc = 0;

	for (unsigned i = 1; !rc && i < s->o.nfds; i++) {
		struct chan_opts co = {
			.fd = steal_fd(&s->o.fd[i]), .cancel = s->cancel, .tls = s->o.tls};

		rc = chan_create(&s->snd[i].c, &co, e)
			     ?: chan_send(s->snd[i].c, MIG_JOIN, i, s->o.id, MIG_ID, e);
	}
	for (unsigned i = 1; !rc && i < s->o.nfds; i++) {
		rc = chan_want(s->snd[i].c, MIG_ACK, NULL, NULL, e);
		if (!rc && pthread_create(&s->snd[i].thread, NULL, sender_main, &s->snd[i]))
			rc = err_set(e, -EAGAIN, "migration: no thread");
		s->snd[i].running = !rc;
	}
	return rc ? err_wrap(e, "stream") : 0;
}

static int read_welcome(struct source *s, struct err *e)
{
	cleanup(json_drop) json_t *j = NULL;
	uint64_t pid = 0;
	int rc = json_parse(s->welcome, strlen(s->welcome), &j, e);

	rc = rc ?: json_want_u64(j, "welcome", "pid", false, &pid, e);
	s->peer = (int)pid;
	return rc;
}

static int hello(struct source *s, struct err *e)
{
	struct chan_opts co = {.fd = steal_fd(&s->o.fd[0]), .cancel = s->cancel, .tls = s->o.tls};
	void *text = NULL;
	struct mig_head h;
	int rc = chan_create(&s->snd[0].c, &co, e);

	if (!rc)
		rc = chan_send(s->snd[0].c, MIG_HELLO, MIG_VERSION_OLDEST << 16 | MIG_VERSION,
			s->o.hello, (uint32_t)strlen(s->o.hello), e);
	if (!rc)
		rc = chan_want(s->snd[0].c, MIG_WELCOME, &h, &text, e);
	if (rc)
		return rc;
	if (h.arg < MIG_VERSION_OLDEST || h.arg > MIG_VERSION) {
		free(text);
		return err_set(e, -EPROTO, "the destination wants to speak version %llu",
			(unsigned long long)h.arg);
	}
	s->welcome = text;
	s->version = (unsigned)h.arg;
	if (s->post && h.arg < MIG_VERSION_POST)
		return err_set(e, -EOPNOTSUPP,
			"the destination's Lodge is older, and has no post-copy (it speaks version "
			"%llu of the stream): leave --post-copy away, or bring it up to date",
			(unsigned long long)h.arg);
	if (s->o.disks && h.arg < MIG_VERSION_DISKS)
		return err_set(e, -ENOTSUP,
			"the Lodge at the destination is older and cannot take disks: bring it up "
			"to date, or share the disks");
	return read_welcome(s, e);
}

/* The same machine, over new connections. */
static int hello_again(struct source *s, struct err *e)
{
	struct chan_opts co = {.fd = steal_fd(&s->o.fd[0]), .cancel = s->cancel, .tls = s->o.tls};
	struct chan *c;
	int rc = chan_create(&s->snd[0].c, &co, e);

	if (rc)
		return rc;
	c = s->snd[0].c;
	return chan_send(c, MIG_RECOVER, s->o.nfds, s->o.id, MIG_ID, e)
		       ?: post_give_learn(s->post, c, e) ?: join_streams(s, e);
}

static int begin_tracking(struct source *s, struct err *e)
{
	int rc = tracker_start(&s->t, s->o.space, NULL, e);

	s->collected_ns = clock_mono_ns();
	if (rc || !s->o.dry_run)
		return rc;
	rc = sleep_until(s, s->collected_ns + SAMPLE_NS, e);
	sample(s);
	return rc;
}

static int run(struct source *s, bool *lost, struct err *e)
{
	int rc;

	*lost = false;
	if (s->o.recover)
		return hello_again(s, e) ?: send_rest(s, e);
	rc = hello(s, e) ?: join_streams(s, e);
	if (rc)
		return rc;
	state_prepare();
	set_phase(s, MIG_COPYING);
	s->stop_bytes = s->o.dry_run ? PROBE_BYTES : 0;
	rc = copy_disks(s, e) ?: begin_tracking(s, e)
		?: (s->post && !s->o.dry_run ? copy_for_post(s, e) : copy(s, e));
	if (s->o.dry_run)
		return rc;
	rc = rc ?: send_hot(s, e) ?: switch_over(s, lost, e);
	return rc || !s->post ? rc : send_rest(s, e);
}

static enum mig_phase phase_at_end(const struct source *s, int rc, bool lost)
{
	if (!rc)
		return s->o.dry_run ? MIG_TRIED : MIG_DONE;
	if (s->away)
		return MIG_BROKEN;
	return lost || s->o.recover ? MIG_LOST : MIG_FAILED;
}

static void *source_main(void *arg)
{
	struct source *s = arg;
	struct err e = {0};
	bool lost;
	int rc;

	pthread_setname_np(pthread_self(), "migrate");
	rc = run(s, &lost, &e);
	s->o.throttle(s->o.ctx, 0);
	tracker_stop(s->t);
	s->t = NULL;
	if (rc && s->snd[0].c && !lost && !s->away)
		rc = chan_last_word(s->snd[0].c, rc, &e);
	if (rc && s->snd[0].c && rc != -EREMOTEIO && !lost && !s->away)
		chan_refuse(s->snd[0].c, &e);
	pthread_mutex_lock(&s->lock);
	s->leave = true;
	pthread_cond_broadcast(&s->cond);
	s->st.total_ns = clock_mono_ns() - s->began_ns;
	s->st.throttle = 0;
	s->st.phase = phase_at_end(s, rc, lost);
	s->st.code = rc;
	if (rc)
		snprintf(s->st.error, sizeof(s->st.error), "%s", err_msg(&e));
	pthread_mutex_unlock(&s->lock);
	/* The other side sees the end before the machine goes on here. */
	for (unsigned i = 0; i < s->o.nfds; i++) {
		if (s->snd[i].running)
			pthread_join(s->snd[i].thread, NULL);
		s->snd[i].running = false;
		chan_free(s->snd[i].c);
		s->snd[i].c = NULL;
	}
	s->o.ask_end(s->o.ctx);
	return NULL;
}

static int make(struct source *s, struct err *e)
{
	int rc = 0;

	s->todo = calloc(s->words, sizeof(*s->todo));
	s->had = calloc(s->words, sizeof(*s->had));
	s->early = calloc(s->words, sizeof(*s->early));
	s->into = s->todo;
	s->cancel = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (!s->todo || !s->had || !s->early || s->cancel < 0)
		return err_set(e, -ENOMEM, "migration: out of memory");
	if (s->o.disks)
		rc = mig_blocks_create(&s->blocks, e);
	for (unsigned i = 0; !rc && i < s->o.nfds; i++) {
		s->snd[i].s = s;
		s->snd[i].index = i;
		s->snd[i].pages = malloc((size_t)MIG_BATCH * MIG_PAGE);
		rc = s->snd[i].pages ? mig_pack_create(&s->snd[i].pack, e)
				     : err_set(e, -ENOMEM, "migration: out of memory");
	}
	if (!rc && (s->o.post || s->o.recover))
		rc = post_give_create(&s->post, &s->ram, e);
	if (!rc && pthread_create(&s->thread, NULL, source_main, s))
		rc = err_set(e, -EAGAIN, "migration: no thread");
	s->running = !rc;
	return rc;
}

int source_create(struct source **out, const struct source_opts *o, struct err *e)
{
	struct source *s = calloc(1, sizeof(*s));
	int rc;

	if (!s) {
		for (unsigned i = 0; i < o->nfds; i++)
			close(o->fd[i]);
		chan_tls_free(o->tls);
		free(o->hello);
		return err_set(e, -ENOMEM, "migration: out of memory");
	}
	s->o = *o;
	s->cancel = -1;
	s->began_ns = clock_mono_ns();
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->cond, NULL);
	mig_ram_init(&s->ram, o->space);
	s->words = (s->ram.pages + 63) / 64;
	s->st.pages = s->ram.pages;
	s->st.streams = o->nfds;
	s->away = o->away;
	rc = make(s, e);
	if (rc) {
		source_free(s);
		return rc;
	}
	*out = s;
	return 0;
}

static void drop_moment(struct source *s)
{
	free(s->moment.state);
	free(s->moment.neighbours);
}

void source_stopped(struct source *s, int rc, const struct err *why, const struct source_moment *m)
{
	pthread_mutex_lock(&s->lock);
	s->stop_rc = rc;
	if (rc)
		s->why = *why;
	drop_moment(s);
	s->moment = *m;
	s->answered = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

void source_disks_free(struct source *s, int rc, const struct err *why)
{
	pthread_mutex_lock(&s->lock);
	s->disks_rc = rc;
	if (rc)
		s->why = *why;
	s->disks_free = true;
	pthread_cond_broadcast(&s->cond);
	pthread_mutex_unlock(&s->lock);
}

void source_cancel(struct source *s, bool ends)
{
	pthread_mutex_lock(&s->lock);
	if (ends || s->st.phase != MIG_POST) {
		s->cancelled = true;
		pthread_cond_broadcast(&s->cond);
		signal_cancel(s);
	}
	pthread_mutex_unlock(&s->lock);
	if (s->o.disks)
		disks_out_cancel(s->o.disks);
}

static void post_stat(struct source *s, struct source_stat *out)
{
	struct post_give_stat st;

	post_give_stat(s->post, &st);
	out->asked = st.asked;
	out->wire += st.wire;
	if (s->away) {
		out->left = st.left;
		out->of = st.of;
		out->page_rate = 0; /* as it goes now */
	}
}

void source_stat(struct source *s, struct source_stat *out)
{
	uint64_t began;

	pthread_mutex_lock(&s->lock);
	*out = s->st;
	began = s->round_ns;
	pthread_mutex_unlock(&s->lock);
	if (s->post)
		post_stat(s, out);
	for (unsigned i = 0; i < s->o.nfds; i++) {
		struct mig_pack_stat st;

		mig_pack_stat(s->snd[i].pack, &st);
		for (unsigned k = 0; k < MIG_KINDS; k++)
			out->sent[k] += st.pages[k];
	}
	if (!out->total_ns)
		out->total_ns = clock_mono_ns() - s->began_ns;
	/* In the first round what it has done so far is all that is known. */
	if (!out->page_rate && out->of > out->left)
		out->page_rate = (uint64_t)((double)(out->of - out->left) * 1e9 /
					    (double)(clock_mono_ns() - began + 1));
}

void source_free(struct source *s)
{
	if (!s)
		return;
	if (s->running)
		pthread_join(s->thread, NULL);
	for (unsigned i = 0; i < s->o.nfds; i++) {
		mig_pack_free(s->snd[i].pack);
		free(s->snd[i].pages);
		if (s->o.fd[i] >= 0)
			close(s->o.fd[i]);
	}
	if (s->cancel >= 0)
		close(s->cancel);
	chan_tls_free(s->o.tls);
	free(s->o.hello);
	mig_blocks_free(s->blocks);
	free(s->welcome);
	drop_moment(s);
	post_give_free(s->post);
	free(s->todo);
	free(s->had);
	free(s->early);
	pthread_cond_destroy(&s->cond);
	pthread_mutex_destroy(&s->lock);
	free(s);
}
