// Says of each object on standard input, one JSON a line, what kstatus makes of it: a line `Current` or `InProgress` and so on,
// and its message. This is the library by which Flux, Helm and cli-utils wait.
package main

import (
	"bufio"
	"fmt"
	"log"
	"os"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/cli-utils/pkg/kstatus/status"
)

func main() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var object unstructured.Unstructured
		if err := object.UnmarshalJSON(lines.Bytes()); err != nil {
			log.Fatal(err)
		}
		result, err := status.Compute(&object)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(result.Status, result.Message)
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}
