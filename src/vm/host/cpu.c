#include "vm/host/cpu.h"

#include "cpu/kvm/features.h"

int host_cpu(struct json_t **out, struct err *e)
{
	return kvm_host_cpu(out, e);
}

int host_cpu_common(const struct json_t *hosts, struct json_t **out, struct err *e)
{
	return features_common(hosts, out, e);
}
