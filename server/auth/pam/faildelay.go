//go:build pam

package pam

/*
#cgo LDFLAGS: -lpam
#include <security/pam_appl.h>

static void no_delay(int status, unsigned int usec, void *data) {
	(void)status, (void)usec, (void)data;
}

static int skip_delay(pam_handle_t *pamh) {
#ifdef PAM_FAIL_DELAY
	return pam_set_item(pamh, PAM_FAIL_DELAY, (const void *)no_delay);
#else
	return PAM_SUCCESS;
#endif
}
*/
import "C"

import (
	"errors"
	"reflect"

	"github.com/msteinert/pam/v2"
)

// skipDelay lets a failure come back at once: some two seconds that pam_unix asks
// for, and in which the child would hold its place. libpam leaves that to a
// function of the application's, PAM_FAIL_DELAY. The package pam cannot set an
// item that is a function, and keeps the handle to itself; its value is read
// where it is, and a test notices if it is there no more.
func skipDelay(tx *pam.Transaction) error {
	handle := reflect.ValueOf(tx).Elem().FieldByName("handle")
	if handle.Kind() != reflect.Pointer {
		return errors.New("the PAM library hides its handle")
	}
	if code := C.skip_delay((*C.pam_handle_t)(handle.UnsafePointer())); code != C.PAM_SUCCESS {
		return pam.Error(code)
	}
	return nil
}
