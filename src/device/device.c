#include "device/device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"

const struct device_class *device_class_find(const char *name)
{
	for (const struct device_class *const *c = device_classes; *c; c++)
		if (!strcmp((*c)->name, name))
			return *c;
	return NULL;
}

int device_class_check(const struct device_class *c, struct err *e)
{
	if (!c->name || !c->help)
		return err_set(e, -EINVAL, "a device class has no name or no help");
	if (c->size < sizeof(struct device) || !c->realize || !c->unrealize || !c->reset)
		return err_set(e, -EINVAL, "device class %s: not complete", c->name);
	if (!c->quiesce != !c->resume)
		return err_set(e, -EINVAL, "device class %s: quiesce without resume", c->name);
	if (!c->state || !c->state->type || !c->state->version || !c->state->fields)
		return err_set(e, -EINVAL, "device class %s: no described state", c->name);
	if (state_desc_check(c->state, e))
		return err_wrap(e, "device class %s", c->name);
	return 0;
}

int device_create(struct device **out, const char *cls, const char *id, struct device_env *env,
	const void *opts, struct err *e)
{
	const struct device_class *c = device_class_find(cls);
	struct device *d;
	int rc;

	if (!c)
		return err_set(e, -ENOENT, "device %s: there is no device class '%s'", id, cls);
	rc = device_class_check(c, e);
	if (rc)
		return rc;
	if (!*id || strlen(id) >= sizeof(d->id))
		return err_set(e, -EINVAL, "device id '%s': 1 to %zu characters are possible", id,
			sizeof(d->id) - 1);
	d = calloc(1, c->size);
	if (!d)
		return err_set(e, -ENOMEM, "device %s: no memory", id);
	d->cls = c;
	d->env = env;
	memcpy(d->id, id, strlen(id));
	pthread_mutex_init(&d->lock, NULL);
	rc = c->realize(d, opts, e);
	if (rc) {
		pthread_mutex_destroy(&d->lock);
		free(d);
		return err_wrap(e, "device %s", id);
	}
	*out = d;
	return 0;
}

void device_destroy(struct device *d)
{
	if (!d)
		return;
	d->cls->unrealize(d);
	pthread_mutex_destroy(&d->lock);
	free(d);
}
