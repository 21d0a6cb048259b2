#include "cpu/rv64/interp.h"
HANDLER(flw)
{
	do_illegal(h, op);
}
HANDLER(fsw)
{
	do_illegal(h, op);
}
HANDLER(fmadd_s)
{
	do_illegal(h, op);
}
HANDLER(fmsub_s)
{
	do_illegal(h, op);
}
HANDLER(fnmsub_s)
{
	do_illegal(h, op);
}
HANDLER(fnmadd_s)
{
	do_illegal(h, op);
}
HANDLER(fadd_s)
{
	do_illegal(h, op);
}
HANDLER(fsub_s)
{
	do_illegal(h, op);
}
HANDLER(fmul_s)
{
	do_illegal(h, op);
}
HANDLER(fdiv_s)
{
	do_illegal(h, op);
}
HANDLER(fsqrt_s)
{
	do_illegal(h, op);
}
HANDLER(fsgnj_s)
{
	do_illegal(h, op);
}
HANDLER(fsgnjn_s)
{
	do_illegal(h, op);
}
HANDLER(fsgnjx_s)
{
	do_illegal(h, op);
}
HANDLER(fmin_s)
{
	do_illegal(h, op);
}
HANDLER(fmax_s)
{
	do_illegal(h, op);
}
HANDLER(fcvt_w_s)
{
	do_illegal(h, op);
}
HANDLER(fcvt_wu_s)
{
	do_illegal(h, op);
}
HANDLER(fcvt_l_s)
{
	do_illegal(h, op);
}
HANDLER(fcvt_lu_s)
{
	do_illegal(h, op);
}
HANDLER(fmv_x_w)
{
	do_illegal(h, op);
}
HANDLER(fclass_s)
{
	do_illegal(h, op);
}
HANDLER(feq_s)
{
	do_illegal(h, op);
}
HANDLER(flt_s)
{
	do_illegal(h, op);
}
HANDLER(fle_s)
{
	do_illegal(h, op);
}
HANDLER(fcvt_s_w)
{
	do_illegal(h, op);
}
HANDLER(fcvt_s_wu)
{
	do_illegal(h, op);
}
HANDLER(fcvt_s_l)
{
	do_illegal(h, op);
}
HANDLER(fcvt_s_lu)
{
	do_illegal(h, op);
}
HANDLER(fmv_w_x)
{
	do_illegal(h, op);
}
HANDLER(fld)
{
	do_illegal(h, op);
}
HANDLER(fsd)
{
	do_illegal(h, op);
}
HANDLER(fmadd_d)
{
	do_illegal(h, op);
}
HANDLER(fmsub_d)
{
	do_illegal(h, op);
}
HANDLER(fnmsub_d)
{
	do_illegal(h, op);
}
HANDLER(fnmadd_d)
{
	do_illegal(h, op);
}
HANDLER(fadd_d)
{
	do_illegal(h, op);
}
HANDLER(fsub_d)
{
	do_illegal(h, op);
}
HANDLER(fmul_d)
{
	do_illegal(h, op);
}
HANDLER(fdiv_d)
{
	do_illegal(h, op);
}
HANDLER(fsqrt_d)
{
	do_illegal(h, op);
}
HANDLER(fsgnj_d)
{
	do_illegal(h, op);
}
HANDLER(fsgnjn_d)
{
	do_illegal(h, op);
}
HANDLER(fsgnjx_d)
{
	do_illegal(h, op);
}
HANDLER(fmin_d)
{
	do_illegal(h, op);
}
HANDLER(fmax_d)
{
	do_illegal(h, op);
}
HANDLER(fcvt_s_d)
{
	do_illegal(h, op);
}
HANDLER(fcvt_d_s)
{
	do_illegal(h, op);
}
HANDLER(feq_d)
{
	do_illegal(h, op);
}
HANDLER(flt_d)
{
	do_illegal(h, op);
}
HANDLER(fle_d)
{
	do_illegal(h, op);
}
HANDLER(fclass_d)
{
	do_illegal(h, op);
}
HANDLER(fcvt_w_d)
{
	do_illegal(h, op);
}
HANDLER(fcvt_wu_d)
{
	do_illegal(h, op);
}
HANDLER(fcvt_l_d)
{
	do_illegal(h, op);
}
HANDLER(fcvt_lu_d)
{
	do_illegal(h, op);
}
HANDLER(fmv_x_d)
{
	do_illegal(h, op);
}
HANDLER(fcvt_d_w)
{
	do_illegal(h, op);
}
HANDLER(fcvt_d_wu)
{
	do_illegal(h, op);
}
HANDLER(fcvt_d_l)
{
	do_illegal(h, op);
}
HANDLER(fcvt_d_lu)
{
	do_illegal(h, op);
}
HANDLER(fmv_d_x)
{
	do_illegal(h, op);
}
