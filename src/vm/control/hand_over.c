/* hand_over.c: the socket goes on in another process (update/update.h). */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "base/fdlist.h"
#include "base/hex.h"
#include "base/util.h"
#include "vm/console.h"
#include "vm/control/control_impl.h"
#include "vm/vm.h"

int control_fd(const struct control *c)
{
	return rpc_server_fd(c->server);
}

void control_forget(struct control *c)
{
	rpc_server_forget(c->server);
}

struct hand_over {
	struct control *c;
	struct fdlist *fds;
	json_t *conns;
};

static void conn_hand_over(void *ctx, struct rpc_conn *conn, const struct rpc_conn_state *st)
{
	struct hand_over *h = ctx;
	cleanup(free_ptr) char *line = malloc(2 * st->line_len + 1);
	unsigned long long pos;
	json_t *j;

	if (!line)
		return;
	hex_put(line, st->line, st->line_len);
	j = json_pack("{s:i, s:b, s:s, s:O?}", "fd", fdlist_add(h->fds, st->fd), "subscribed",
		st->subscribed, "line", line, "later", st->later);
	if (console_reader(vm_console(h->c->vm), conn, &pos))
		json_object_set_new(j, "console", json_integer((json_int_t)pos));
	json_array_append_new(h->conns, j);
}

json_t *control_hand_over(struct control *c, struct fdlist *fds)
{
	struct hand_over h = {c, fds, json_array()};

	rpc_server_each(c->server, conn_hand_over, &h);
	return json_pack("{s:i, s:o, s:O, s:I}", "listening",
		fdlist_add(fds, rpc_server_fd(c->server)), "conns", h.conns, "history", c->history,
		"events", (json_int_t)c->nevents);
}

static int conn_take_over(struct control *c, const json_t *j, struct fdlist *fds, struct err *e)
{
	const char *line = json_string_value(json_object_get(j, "line")) ?: "";
	const json_t *console = json_object_get(j, "console"), *place = json_object_get(j, "fd");
	size_t len = strlen(line) / 2;
	cleanup(free_ptr) char *raw = malloc(len + 1);
	struct rpc_conn_state st = {
		.fd = json_is_integer(place) ? fdlist_take_stream(fds, json_integer_value(place))
					     : -1,
		.subscribed = json_is_true(json_object_get(j, "subscribed")),
		.line = raw,
		.line_len = len,
		.later = json_object_get(j, "later")};
	struct rpc_conn *conn;

	if (st.fd < 0 || !raw || hex_get(raw, len, line)) {
		if (st.fd >= 0)
			close(st.fd);
		return err_set(
			e, -EINVAL, "control socket: a connection that cannot be taken over");
	}
	if (json_is_null(st.later))
		st.later = NULL;
	if (rpc_conn_adopt(c->server, &st, &conn))
		return 0; /* its peer has gone meanwhile */
	if (st.later)
		c->asked = conn;
	return json_is_integer(console)
		       ? console_attach_at(vm_console(c->vm), conn,
				 (unsigned long long)json_integer_value(console), e)
		       : 0;
}

int control_take_over(struct control *c, const json_t *j, struct fdlist *fds, struct err *e)
{
	const json_t *conns = json_object_get(j, "conns"), *one;
	json_t *history = json_object_get(j, "history");
	size_t i;
	int rc = 0;

	if (!json_is_array(conns) || !json_is_array(history))
		return err_set(e, -EINVAL, "control socket: not what one hands over");
	json_array_extend(c->history, history);
	c->nevents = (unsigned long long)json_integer_value(json_object_get(j, "events"));
	json_array_foreach(conns, i, one) rc = rc ?: conn_take_over(c, one, fds, e);
	return rc;
}

void control_answer(struct control *c, json_t *result)
{
	struct rpc_conn *conn = c->asked;

	c->asked = NULL;
	if (conn)
		rpc_conn_answer(conn, 0, result, NULL);
	else
		json_decref(result);
}
