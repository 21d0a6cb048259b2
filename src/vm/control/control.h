/*
 * control.h: the control socket of one machine: the methods behind rpc.h.
 *
 * The tables in the files of features beside it are the reference: name, parameters, what it needs, what it does. `lodge` verbs are thin over it.
 */
#ifndef LODGE_VM_CONTROL_CONTROL_H
#define LODGE_VM_CONTROL_CONTROL_H

struct control;
struct err;
struct fdlist;
struct rpc_conn;
struct json_t;
struct uv_loop_s;
struct vm;

/* `listening`: a descriptor that listens at `path` already, from another process (owned); -1: the socket is made. */
int control_create(struct control **out, struct uv_loop_s *loop, const char *path, int listening,
	const char *name, struct err *e);
/* The machine may come later than the socket, and must be taken away (NULL) before it is destroyed. */
void control_set_vm(struct control *c, struct vm *vm);
/* To everybody who subscribed; `params` is borrowed. */
void control_event(struct control *c, const char *event, struct json_t *params);
void control_close(struct control *c);

/*
 * What the method `update` does: `sock` is the callee's. 0 means that the request is answered later (rpc_conn_answer()). Without it: refused,
 * with `why_not` (which outlives the socket).
 */
void control_on_update(struct control *c,
	int (*update)(void *ctx, struct rpc_conn *conn, int sock, struct err *e),
	const char *why_not, void *ctx);

/*
 * The socket goes on in another process (update/update.h): connections with what they are in the middle of, events so far. Places in `fds` name the
 * descriptors. The connection of the request `update` is answered by control_answer() there. forget(): the path is not removed at the end.
 */
struct json_t *control_hand_over(struct control *c, struct fdlist *fds);
int control_take_over(struct control *c, const struct json_t *j, struct fdlist *fds, struct err *e);
void control_answer(struct control *c, struct json_t *result); /* stolen */
void control_forget(struct control *c);
int control_fd(const struct control *c); /* that listens */

/* Every method with its parameters, needs and help, for docs and `lodge-vm --help`. New reference. */
struct json_t *control_methods(void);

#endif
