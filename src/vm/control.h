/*
 * control.h: the control socket of one machine: the methods behind rpc.h.
 *
 * The table in control.c is the reference: name, parameters, what it does. `lodge` verbs are thin over it.
 */
#ifndef LODGE_VM_CONTROL_H
#define LODGE_VM_CONTROL_H

struct control;
struct err;
struct json_t;
struct uv_loop_s;
struct vm;

/* `save_fd` (borrowed; -1: none) is where the method `save` writes to: inside the sandbox no file can be made. */
int control_create(struct control **out, struct uv_loop_s *loop, const char *path, const char *name,
	int save_fd, struct err *e);
/* The machine may come later than the socket, and must be taken away (NULL) before it is destroyed. */
void control_set_vm(struct control *c, struct vm *vm);
/* To everybody who subscribed; `params` is borrowed. */
void control_event(struct control *c, const char *event, struct json_t *params);
void control_close(struct control *c);

/* Every method with its parameters and help, for docs and `lodge-vm --help`. New reference. */
struct json_t *control_methods(void);

#endif
