/*
 * view_reclaim.h: between view.c and space.c only: gives back table frames once no reader can be inside them.
 */
#ifndef LODGE_MEMORY_VIEW_RECLAIM_H
#define LODGE_MEMORY_VIEW_RECLAIM_H

struct view;

void view_reclaim(struct view *v);

#endif
