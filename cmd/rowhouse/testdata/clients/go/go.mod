module clients

go 1.26.0

require github.com/supabase-community/postgrest-go v0.0.11
