#include "vm/update/update.h"

void update_stage(const char *stage)
{
}
