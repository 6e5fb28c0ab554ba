// What stands behind the proxies where nginx is missing: the same answer to everything.
package main

import (
	"log"
	"net/http"
	"os"
)

func main() {
	page, err := os.ReadFile(os.Getenv("PAGE"))
	if err != nil {
		log.Fatal(err)
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Type"] = []string{"application/json"}
		w.Header()["Cache-Control"] = []string{"no-store"}
		w.Write(page)
	})
	http.HandleFunc("/internal/pages", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"pages":[]}`))
	})
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Getenv("PORT"), nil))
}
