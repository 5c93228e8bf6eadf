module nginx-commerce/stripe-mock

go 1.16

require github.com/stripe/stripe-mock v0.203.0
