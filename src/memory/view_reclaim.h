/*
 * view_reclaim.h: between view.c and space.c only: gives back table frames once no reader can be inside them.
 *
 * A table that a change emptied, or joined into a leaf, is kept with the range that it translated. Whoever invalidates a range takes the
 * tables of that range first, then waits until all readers that may have entered before are out, and frees
 * them. (In this order: a table that is taken out while he waits is not his to free.)
 */
#ifndef LODGE_MEMORY_VIEW_RECLAIM_H
#define LODGE_MEMORY_VIEW_RECLAIM_H

#include "memory/addr.h"

struct view;
struct view_retired;

struct view_retired *view_retired_take(struct view *v, gpa_t a, uint64_t len);
void view_retired_free(struct view *v, struct view_retired *list);

#endif
